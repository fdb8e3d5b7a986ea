from tempfile import TMP_MAX as TMP_MAX
from tempfile import NamedTemporaryFile as NamedTemporaryFile
from tempfile import SpooledTemporaryFile as SpooledTemporaryFile
from tempfile import TemporaryDirectory as TemporaryDirectory
from tempfile import TemporaryFile as TemporaryFile
from tempfile import _TemporaryFileWrapper as _TemporaryFileWrapper
from tempfile import gettempdir as gettempdir
from tempfile import gettempdirb as gettempdirb
from tempfile import gettempprefix as gettempprefix
from tempfile import gettempprefixb as gettempprefixb
from tempfile import mkdtemp as mkdtemp
from tempfile import mkstemp as mkstemp
from tempfile import mktemp as mktemp

tempdir: str | bytes | None
template: str
