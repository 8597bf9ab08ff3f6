"""Help for tests: of programs that use taskcore, and of adapters that it uses.

``plugin`` is the pytest plugin, loaded by pytest itself; it gives the fixture ``taskcore_app``.
"""
