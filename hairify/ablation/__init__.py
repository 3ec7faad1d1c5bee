"""The paper's ablations (section 4.3, Tables 5 and 6; Tables 7 and 8) on any network and data.

`variants` makes the networks that are compared, `running` trains and evaluates them, `tables` shows what came of it.
The modules are imported by name: `variants` needs nothing but hairify itself.
"""
