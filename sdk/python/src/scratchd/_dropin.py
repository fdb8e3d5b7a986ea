"""The standard module once more, with what it makes on a lease.

The interpreter's own `tempfile` is run a second time, in the namespace of `scratchd.tempfile`; then the few functions that
decide where something is made, and that remove it, are replaced there. So every name, message and audit event is that of the
interpreter at hand, and a test or program that replaces one of the module's globals meets the code that it expects.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import sys
import threading

from scratchd import _process
from scratchd._areas import has_separator, in_lease, make, place, remove
from scratchd._process import KIND_ANONYMOUS, KIND_DIRECTORY, KIND_FILE
from scratchd.errors import ChannelClosed, NoBroker, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_AT_IMPORT = tuple(os.environ.get(name) for name in _VARIABLES)
# mkdtemp() returned what it was given before.
_MKDTEMP_IS_ABSOLUTE = sys.version_info >= (3, 12)


def fill(namespace: dict[str, Any]) -> None:
    """Fills a module's namespace."""
    exec(_standard_code(), namespace)
    Dropin(namespace).replace()


def _standard_code() -> Any:
    """The standard module's code, wherever this interpreter has it, also when `sys.modules` holds another one."""
    for finder in sys.meta_path:
        spec = finder.find_spec("tempfile", None)
        loader = spec.loader if spec else None
        if loader is not None and hasattr(loader, "get_code"):
            code = loader.get_code("tempfile")
            if code is not None:
                return code
    raise ImportError("this interpreter has no standard module tempfile")


class Dropin:
    """The functions that are replaced. `names` is the module's namespace, looked into at each call."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.standard = dict(names)
        self.by_broker = os.environ.get("SCRATCHD_CREATE") == "broker" or bool(os.environ.get("SCRATCHD_CHANNEL"))
        self.outlives = os.environ.get("SCRATCHD_OUTLIVE", "") not in ("", "0")
        self.asked = threading.local()

    def replace(self) -> None:
        """Puts them in place."""
        self._replace("_candidate_tempdir_list", self.candidates)
        self._replace_mkstemp_inner()
        self._replace_mkdtemp()
        if self.by_broker:
            self._replace("TemporaryFile", self.temporary_file)
        if self.outlives:
            self._replace("mkstemp", self.outliving("mkstemp"))
            self._replace("NamedTemporaryFile", self.outliving_unless_deleted("NamedTemporaryFile"))
        self._replace_closer(self.names["_TemporaryFileCloser"])
        self._replace_directory(self.names["TemporaryDirectory"])
        os.register_at_fork(after_in_child=self.after_fork)

    def _replace(self, name: str, function: Callable[..., Any]) -> None:
        standard = self.standard[name]

        # A function of its own, so that it has the standard one's name and signature.
        @functools.wraps(standard)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        self.names[name] = replaced

    # The next two are as short as can be on the way that is nearly always gone: in this process's own lease.

    def _replace_mkstemp_inner(self) -> None:
        standard, otherwise = self.standard["_mkstemp_inner"], self.mkstemp_inner
        is_plain = not (self.by_broker or self.outlives)

        @functools.wraps(standard)
        def replaced(dir: Any, pre: Any, suf: Any, flags: int, output_type: type) -> Any:
            lease = _process.current.known_lease
            if is_plain and lease and dir == lease.path and "/" not in pre and "/" not in suf:
                try:
                    return standard(dir, pre, suf, flags, output_type)
                except FileNotFoundError:
                    pass
            return otherwise(dir, pre, suf, flags, output_type)

        self.names["_mkstemp_inner"] = replaced

    def _replace_mkdtemp(self) -> None:
        names, standard, otherwise = self.names, self.standard["mkdtemp"], self.mkdtemp
        is_plain = not (self.by_broker or self.outlives)

        @functools.wraps(standard)
        def replaced(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
            lease = _process.current.known_lease
            found = names["tempdir"] if dir is None else dir
            if is_plain and lease and found == lease.path and not has_separator(prefix, suffix):
                try:
                    return standard(suffix, prefix, dir)
                except FileNotFoundError:
                    pass
            return otherwise(suffix, prefix, dir)

        names["mkdtemp"] = replaced

    def _replace_closer(self, closer: Any) -> None:
        """What a forked child inherits is its parent's to remove."""
        method = "cleanup" if hasattr(closer, "cleanup") else "close"
        init, standard = closer.__init__, getattr(closer, method)

        @functools.wraps(init)
        def replaced_init(this: Any, *args: Any, **kwargs: Any) -> None:
            this.maker = _process.current
            init(this, *args, **kwargs)

        @functools.wraps(standard)
        def replaced(this: Any, *args: Any, **kwargs: Any) -> None:
            own = this.maker
            if own is not _process.current:
                this.delete = False
            standard(this, *args, **kwargs)
            if this.delete and own.elsewhere:
                own.release_elsewhere(os.fsencode(this.name))

        closer.__init__ = replaced_init
        setattr(closer, method, replaced)

    def _replace_directory(self, directory: Any) -> None:
        """What a forked child inherits is its parent's to remove."""
        init, rmtree, cleanup = directory.__init__, directory._rmtree.__func__, directory._cleanup.__func__

        @functools.wraps(init)
        def replaced_init(this: Any, *args: Any, **kwargs: Any) -> None:
            if self.outlives:
                with self.asking(outlives=not kwargs.get("delete", True)):
                    init(this, *args, **kwargs)
            else:
                init(this, *args, **kwargs)
            _process.current.directories.add(this.name)

        @functools.wraps(rmtree)
        def replaced_rmtree(cls: Any, name: Any, *args: Any, **kwargs: Any) -> None:
            own = _process.current
            if name in own.inherited:
                return
            if not remove(name):
                rmtree(cls, name, *args, **kwargs)
            own.directories.discard(name)

        @functools.wraps(cleanup)
        def replaced_cleanup(cls: Any, name: Any, *args: Any, **kwargs: Any) -> None:
            if name not in _process.current.inherited:
                cleanup(cls, name, *args, **kwargs)

        directory.__init__ = replaced_init
        directory._rmtree = classmethod(replaced_rmtree)
        directory._cleanup = classmethod(replaced_cleanup)

    @contextlib.contextmanager
    def asking(self, outlives: bool) -> Iterator[None]:
        """Whether what is made until then is to outlive this process, if it may be asked for."""
        before = getattr(self.asked, "outlives", None)
        self.asked.outlives = outlives
        try:
            yield
        finally:
            self.asked.outlives = before

    def after_fork(self) -> None:
        """A default directory that is the parent's lease is replaced by the child's own when it is needed."""
        tempdir, parents = self.names["tempdir"], _process.current.lease_of_parent
        if tempdir is not None and parents is not None and os.fsdecode(tempdir) == parents.path:
            self.names["tempdir"] = None

    # Where

    def candidates(self) -> list[str]:
        """The lease's directory comes first, unless somebody has named another one since."""
        standard: list[str] = self.standard["_candidate_tempdir_list"]()
        if getattr(self.asked, "outlives", False) or tuple(map(os.environ.get, _VARIABLES)) != _AT_IMPORT:
            return standard
        own = _process.current
        if own.is_local():
            return standard
        path = own.lease().path
        return [path, *standard] if path else standard

    def mkstemp_inner(self, dir: Any, pre: Any, suf: Any, flags: int, output_type: type) -> tuple[int, Any]:
        """As the standard one; outside of the lease the broker makes it."""
        if self.is_standard():
            made: tuple[int, Any] = self.standard["_mkstemp_inner"](dir, pre, suf, flags, output_type)
            return made
        try:
            return self.mkstemp_in(dir, pre, suf, flags, output_type)
        except (NoBroker, ChannelClosed) as error:
            if not _process.current.go_local(error):
                raise
            return self.mkstemp_inner(dir, pre, suf, flags, output_type)
        except FileNotFoundError:
            again = self.other_directory(dir)
            if again is None:
                raise
            return self.mkstemp_in(again, pre, suf, flags, output_type)

    def mkstemp_in(self, dir: Any, pre: Any, suf: Any, flags: int, output_type: type) -> tuple[int, Any]:
        """By this process in a lease's directory, else by the broker."""
        if not self.by_broker and not has_separator(pre, suf) and place(os.fsdecode(os.path.abspath(dir))):
            made: tuple[int, Any] = self.standard["_mkstemp_inner"](dir, pre, suf, flags, output_type)
            return made
        return self.by_names("tempfile.mkstemp", "file", KIND_FILE, (os.path.abspath(dir), pre, suf, output_type))

    def mkdtemp(self, suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
        """As the standard one; outside of the lease the broker makes it."""
        if self.is_standard(asked=True):
            with self.asking(outlives=True):
                return self.standard["mkdtemp"](suffix, prefix, self.outliving_directory(suffix, prefix, dir))
        try:
            return self.mkdtemp_in(suffix, prefix, dir)
        except (NoBroker, ChannelClosed) as error:
            if not _process.current.go_local(error):
                raise
            return self.mkdtemp(suffix, prefix, dir)
        except FileNotFoundError:
            if dir is not None or self.other_directory(self.names["_gettempdir"]()) is None:
                raise
            return self.mkdtemp_in(suffix, prefix, dir)

    def mkdtemp_in(self, suffix: Any, prefix: Any, dir: Any) -> Any:
        """By this process in a lease's directory, else by the broker."""
        if not self.by_broker and not has_separator(prefix, suffix):
            found = self.names["_gettempdir"]() if dir is None else dir
            if place(os.fsdecode(os.path.abspath(found))):
                return self.standard["mkdtemp"](suffix, prefix, dir)
        prefix, suffix, dir, output_type = self.names["_sanitize_params"](prefix, suffix, dir)
        where = os.path.abspath(dir) if _MKDTEMP_IS_ABSOLUTE else os.fspath(dir)
        return self.by_names("tempfile.mkdtemp", "directory", KIND_DIRECTORY, (where, prefix, suffix, output_type))[1]

    def temporary_file(
        self,
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: Any = None,
        prefix: Any = None,
        dir: Any = None,
        *,
        errors: str | None = None,
    ) -> Any:
        """As the standard one, through the broker where no directory is named."""
        standard = self.standard["TemporaryFile"]
        where = None if self.is_standard() else self.place_by_broker(dir)
        if where is None:
            return standard(mode, buffering, encoding, newline, suffix, prefix, dir, errors=errors)
        if not self.names["_O_TMPFILE_WORKS"]:
            with self.taken_back():
                return standard(mode, buffering, encoding, newline, suffix, prefix, dir, errors=errors)
        if "b" not in mode:
            encoding = io.text_encoding(encoding)
        descriptor = -1

        def opener(*_: Any) -> int:
            nonlocal descriptor
            answer, _lease = _process.current.create({"kind": KIND_ANONYMOUS, "want_handle": True, **where})
            descriptor = int(answer.descriptors[0])
            return descriptor

        try:
            file = io.open(".", mode, buffering, encoding, errors, newline, opener=opener)
        except Refused as refused:
            raise refused.as_os_error("(temporary file)") from refused
        except (NoBroker, ChannelClosed) as error:
            if not _process.current.go_local(error):
                raise
            return standard(mode, buffering, encoding, newline, suffix, prefix, dir, errors=errors)
        raw: Any = getattr(file, "buffer", file)
        getattr(raw, "raw", raw).name = descriptor
        return file

    def place_by_broker(self, directory: Any) -> dict[str, Any] | None:
        """How a request names that directory, if it is a lease's; by default that of this process, also where no path leads."""
        if directory is None:
            if not _process.current.lease().path:
                return {}
            directory = self.names["_gettempdir"]()
        path = os.path.abspath(os.fsdecode(directory))
        lease = place(path)
        return None if lease is None else in_lease(lease, path)

    @contextlib.contextmanager
    def taken_back(self) -> Iterator[None]:
        """What the broker makes for this thread until then is removed again if that fails."""
        self.asked.made = []
        try:
            yield
        except BaseException:
            for values in self.asked.made:
                _process.current.channel.call("release", values)
            raise
        finally:
            self.asked.made = None

    def other_directory(self, directory: Any) -> Any:
        """The directory of the lease that follows this process's, if that is what is missing."""
        lease = _process.current.known_lease
        if lease is None or os.fsdecode(directory) != lease.path or os.path.isdir(lease.path):
            return None
        _process.current.lost(lease)
        if self.names["tempdir"] is not None and os.fsdecode(self.names["tempdir"]) == lease.path:
            self.names["tempdir"] = None
        found = self.names["_gettempdir"]()
        return os.fsencode(found) if isinstance(directory, bytes) else found

    # Through the broker

    def by_names(self, event: str, what: str, kind: int, where: tuple[Any, Any, Any, type]) -> tuple[int, Any]:
        """Tries one random name after the other, as the standard functions do."""
        directory, prefix, suffix, output_type = where
        names = self.names["_get_candidate_names"]()
        if output_type is bytes:
            names = map(os.fsencode, names)
        for _ in range(self.names["TMP_MAX"]):
            path = os.path.join(directory, prefix + next(names) + suffix)
            sys.audit(event, path)
            try:
                made = make(kind, path)
            except FileExistsError:
                continue
            if getattr(self.asked, "made", None) is not None:
                self.asked.made.append(made.release)
            return made.descriptor, path
        raise FileExistsError(errno.EEXIST, f"No usable temporary {what} name found")

    # To outlive this process

    def is_standard(self, asked: bool = False) -> bool:
        """Whether what is made now is nobody's: on request, or for want of a broker."""
        outlives = self.outlives and getattr(self.asked, "outlives", None)
        if self.outlives and asked and getattr(self.asked, "outlives", None) is None:
            outlives = True
        return bool(outlives) or _process.current.is_local()

    def outliving_directory(self, suffix: Any, prefix: Any, directory: Any) -> Any:
        """The default one that is no lease's."""
        if directory is not None or not self.outlives:
            return directory
        tempdir = self.names["tempdir"]
        own = _process.current.known_lease
        if tempdir is None or (own and os.fsdecode(tempdir) == own.path):
            tempdir = self.standard_tempdir()
        is_bytes = isinstance(suffix, bytes) or isinstance(prefix, bytes)
        return os.fsencode(tempdir) if is_bytes else tempdir

    @functools.cached_property
    def standard_tempdir(self) -> Callable[[], str]:
        """That of the standard module."""

        @functools.cache
        def find() -> str:
            with self.asking(outlives=True):
                return str(self.names["_get_default_tempdir"]())

        return find

    def outliving(self, name: str) -> Callable[..., Any]:
        """That function, for what outlives this process."""

        def replaced(suffix: Any = None, prefix: Any = None, dir: Any = None, text: bool = False) -> Any:
            with self.asking(outlives=True):
                return self.standard[name](suffix, prefix, self.outliving_directory(suffix, prefix, dir), text)

        return replaced

    def outliving_unless_deleted(self, name: str) -> Callable[..., Any]:
        """That function, which is told whether to delete what it makes: its eighth argument."""

        def replaced(*args: Any, **kwargs: Any) -> Any:
            delete = args[7] if len(args) > 7 else kwargs.get("delete", True)
            if not delete and len(args) <= 6:
                kwargs["dir"] = self.outliving_directory(kwargs.get("suffix"), kwargs.get("prefix"), kwargs.get("dir"))
            with self.asking(outlives=not delete):
                return self.standard[name](*args, **kwargs)

        return replaced
