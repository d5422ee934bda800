"""What every framework plugin needs and none should write again.

Nothing here imports a framework: names, shapes and numbers go in, decisions and errors come out.
"""
