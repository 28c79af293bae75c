//! Checks of a library that run nothing of it.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache, ReadRef};

use scaler_types::v1::METRIC_SOURCE_SYMBOL;

use crate::{Interface, LoadError};

/// The largest file that is taken for a library: far above a plugin with all its debug information.
const MAX_SIZE: u64 = 2 << 30;

/// The largest piece of it that is read at once. The largest there is in a real one is its table of symbols.
const MAX_PIECE: u64 = 64 << 20;

/// A file of which only what is asked for is read, in pieces that are not too large.
#[derive(Clone, Copy)]
struct Pieces<'a>(&'a ReadCache<File>);

/// Checks that `path` is a whole ELF library that exports a plugin, and that not everybody may write. Gives the plugin's interface.
///
/// The loader cannot be asked: a library that is cut short kills the process in `dlopen`, and what is not a plugin would
/// have its initialisers run before anyone could see that it is none.
pub(crate) fn inspect(path: &Path) -> Result<Interface, LoadError> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::Dangling,
        _ => LoadError::Unreadable(error),
    })?;
    if metadata.is_dir() {
        return Err(LoadError::NotAFile("a folder"));
    }
    if !metadata.is_file() {
        return Err(LoadError::NotAFile("a device, a pipe or a socket"));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o002 != 0 {
        return Err(LoadError::Writable(mode));
    }
    if metadata.len() > MAX_SIZE {
        return Err(LoadError::TooLarge { size: metadata.len(), max: MAX_SIZE });
    }
    let file = ReadCache::new(File::open(path).map_err(LoadError::Unreadable)?);
    elf(Pieces(&file), metadata.len())
}

fn elf(file: Pieces<'_>, size: u64) -> Result<Interface, LoadError> {
    let wrong = |error: object::Error| LoadError::NotElf(error.to_string());
    let elf = object::File::parse(file).map_err(wrong)?;
    // The loader's own word for it is "No such file or directory".
    let ours = match std::env::consts::ARCH {
        "x86_64" => object::Architecture::X86_64,
        "aarch64" => object::Architecture::Aarch64,
        _ => elf.architecture(),
    };
    if elf.architecture() != ours {
        return Err(LoadError::Processor(format!("{:?}", elf.architecture())));
    }
    // The section table usually lies at the end and has just been read; what is mapped must be there too.
    for segment in elf.segments() {
        let (start, length) = segment.file_range();
        if start.checked_add(length).is_none_or(|end| end > size) {
            return Err(LoadError::NotElf("a segment ends behind the file's end".to_owned()));
        }
    }
    let root = abi_stable::library::ROOT_MODULE_LOADER_NAME;
    let exports =
        |name| elf.dynamic_symbols().any(|symbol| symbol.is_definition() && symbol.name() == Ok(name));
    if !exports(root) {
        return Err(LoadError::NoPlugin);
    }
    Ok(if exports(METRIC_SOURCE_SYMBOL) { Interface::MetricSource } else { Interface::ResourceScaler })
}

// === impl Pieces ===

impl<'a> ReadRef<'a> for Pieces<'a> {
    fn len(self) -> Result<u64, ()> {
        self.0.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        if size > MAX_PIECE { Err(()) } else { self.0.read_bytes_at(offset, size) }
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let end = range.end.min(range.start.saturating_add(MAX_PIECE));
        self.0.read_bytes_at_until(range.start..end, delimiter)
    }
}
