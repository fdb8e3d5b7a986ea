# The standard module's documentation takes this place: it is the standard module, on a lease of this process. See _dropin.py.
from scratchd import _dropin

_dropin.fill(globals())
