"""Line 3 fails."""

raise ImportError("cannot import name 'gone' from 'acme_driver'")
