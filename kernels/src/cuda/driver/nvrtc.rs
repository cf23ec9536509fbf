//! NVRTC, NVIDIA's compiler library, loaded from wherever the user has it.
//!
//! It needs no GPU, no driver, no toolkit and no headers: kernels are written without any.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::Library;

use super::{CudaError, Result};

type Program = *mut std::ffi::c_void;
type GetSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type GetBytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The library, loaded.
#[derive(Clone, Debug)]
pub struct Nvrtc {
    library: Arc<Library>,
    path: PathBuf,
    version: (i32, i32),
}

/// Machine code for one architecture, and what the assembler said about it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The code.
    pub cubin: Vec<u8>,
    /// Registers, shared memory and spills of each kernel, as `ptxas -v` prints them.
    pub log: String,
}

impl Nvrtc {
    /// Looks in the usual places; `JOULEWISE_NVRTC` (a file or a directory) goes first. A version that the driver's
    /// CUDA major version covers is preferred.
    ///
    /// # Errors
    /// [`CudaError::NoNvrtc`].
    pub fn find(driver_version: Option<i32>) -> Result<Self> {
        let candidates = candidates();
        let mut newer = None;
        for path in &candidates {
            let Some(found) = Self::open(path) else { continue };
            if driver_version.is_none_or(|driver| found.version.0 <= driver / 1000) {
                return Ok(found);
            }
            newer.get_or_insert(found);
        }
        newer.ok_or(CudaError::NoNvrtc { searched: candidates.len() })
    }

    fn open(path: &Path) -> Option<Self> {
        // SAFETY: loading NVRTC runs its initialisers, which are harmless.
        let library = unsafe { Library::new(path) }.ok()?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature is the documented one of nvrtcVersion, both outputs are writable.
        let code = unsafe {
            library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion\0").ok()?(
                &mut major, &mut minor,
            )
        };
        let found = Self { library: Arc::new(library), path: path.to_owned(), version: (major, minor) };
        // nvrtcGetCUBIN came with 11.1; older libraries are of no use.
        (code == 0 && found.version >= (11, 1)).then_some(found)
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    fn symbol<T: Copy>(&self, name: &'static str) -> Result<T> {
        let name_with_zero = CString::new(name).unwrap_or_default();
        // SAFETY: every caller passes the documented signature of the function it names.
        unsafe { self.library.get::<T>(name_with_zero.as_bytes_with_nul()) }
            .map(|symbol| *symbol)
            .map_err(|_| CudaError::Nvrtc { what: name, code: -1 })
    }

    /// Compiles one file to machine code for `arch`, such as `sm_90a`.
    ///
    /// # Errors
    /// [`CudaError::Compile`] with the compiler's own words.
    pub fn compile(
        &self,
        file: &'static str,
        source: &str,
        arch: &str,
        options: &[&str],
    ) -> Result<Compiled> {
        let create: unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int = self.symbol("nvrtcCreateProgram")?;
        let compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int =
            self.symbol("nvrtcCompileProgram")?;
        let destroy: unsafe extern "C" fn(*mut Program) -> c_int = self.symbol("nvrtcDestroyProgram")?;
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let (source, name) = (text(source), text(file));
        let arch_option = format!("--gpu-architecture={arch}");
        let options: Vec<CString> = [arch_option.as_str()].iter().chain(options).map(|o| text(o)).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: both texts end with a zero, there are no headers, `program` is writable.
        let code = unsafe {
            create(&mut program, source.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null())
        };
        if code != 0 {
            return Err(CudaError::Nvrtc { what: "nvrtcCreateProgram", code });
        }
        // SAFETY: the program exists, the options end with zeros and live until the call returns.
        let code = unsafe { compile(program, pointers.len() as c_int, pointers.as_ptr()) };
        let result = self.results(program, code, file, arch);
        // SAFETY: created above, destroyed once.
        unsafe { destroy(&mut program) };
        result
    }

    fn results(&self, program: Program, code: c_int, file: &'static str, arch: &str) -> Result<Compiled> {
        let bytes = |size: &'static str, get: &'static str| -> Result<Vec<u8>> {
            let mut len = 0;
            // SAFETY: the program exists, `len` is writable.
            let code = unsafe { self.symbol::<GetSize>(size)?(program, &mut len) };
            if code != 0 {
                return Err(CudaError::Nvrtc { what: size, code });
            }
            let mut out = vec![0u8; len];
            // SAFETY: the program exists, `out` has the length that was asked for.
            let code = unsafe { self.symbol::<GetBytes>(get)?(program, out.as_mut_ptr().cast()) };
            if code != 0 {
                return Err(CudaError::Nvrtc { what: get, code });
            }
            Ok(out)
        };
        let log = bytes("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
        let log = CStr::from_bytes_until_nul(&log).map(|log| log.to_string_lossy().into_owned());
        let log = log.unwrap_or_default();
        if code != 0 {
            return Err(CudaError::Compile { file, arch: arch.to_owned(), log });
        }
        Ok(Compiled { cubin: bytes("nvrtcGetCUBINSize", "nvrtcGetCUBIN")?, log })
    }
}

const NAMES: &[&str] =
    &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "nvrtc64_120_0.dll"];
/// Where pip puts it below `site-packages`: wheels of CUDA 13, then of 12 and 11.
const WHEELS: &[&str] = &["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];

/// Everything that could be NVRTC, best guess first; files that exist, and names for the system to find.
fn candidates() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut found = Vec::new();
    if let Some(path) = std::env::var_os("JOULEWISE_NVRTC").map(PathBuf::from) {
        if path.is_file() {
            found.push(path);
        } else {
            directories.push(path);
        }
    }
    found.extend(existing(&directories));
    found.extend(NAMES.iter().map(PathBuf::from));
    directories.clear();
    for variable in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"] {
        if let Some(root) = std::env::var_os(variable) {
            directories.push(Path::new(&root).join("lib64"));
        }
    }
    directories.extend(children("/usr/local", "cuda").map(|root| root.join("lib64")));
    directories.push("/usr/lib/x86_64-linux-gnu".into());
    directories.push("/opt/cuda/lib64".into());
    let mut roots: Vec<PathBuf> = Vec::new();
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        roots.extend(std::env::var_os(variable).map(PathBuf::from));
    }
    // A `python3` on the path that belongs to an environment nobody activated.
    let path = std::env::var_os("PATH").unwrap_or_default();
    roots.extend(
        std::env::split_paths(&path)
            .filter(|directory| directory.join("python3").exists())
            .filter_map(|directory| directory.parent().map(Path::to_owned)),
    );
    roots.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".local")));
    roots.push("/usr/local".into());
    for root in roots {
        for python in children(&root.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                directories.extend(WHEELS.iter().map(|wheel| python.join(packages).join(wheel)));
            }
        }
    }
    found.extend(existing(&directories));
    found
}

fn existing(directories: &[PathBuf]) -> Vec<PathBuf> {
    let files = directories.iter().flat_map(|directory| NAMES.iter().map(|name| directory.join(name)));
    files.filter(|file| file.is_file()).collect()
}

/// Directories below `parent` whose name begins with `prefix`, the last in the alphabet first.
fn children(parent: impl AsRef<Path>, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.into_iter().rev()
}
