//! Answer HTTP requests as a WebAssembly module of Lambent. It needs no crate, edition 2018 or 2021, and the target
//! wasm32-wasip1 (wasm32-wasi) or wasm32-unknown-unknown.
//!
//! ```ignore
//! mod lambent;
//! use std::io::{Read, Write};
//!
//! fn answer(mut request: lambent::Request) -> std::io::Result<()> {
//!     let mut text = String::new();
//!     request.body.read_to_string(&mut text)?;
//!     let mut body = lambent::Response::new(200).header("Content-Type", "text/plain").send();
//!     write!(body, "{} bytes to {}", text.len(), request.path())
//! }
//!
//! lambent::handle!(answer);
//! ```
//!
//! The function is called once for each request, in a fresh copy of the module as it was when it had been initialised:
//! nothing that one request leaves in memory is there for the next. An error that it gives, and a panic, is the
//! failure of the request, and in the log.

#![allow(dead_code, unused_imports, unused_macros)]

use std::io::{self, Read, Write};

mod host {
    #[link(wasm_import_module = "lambent_v1")]
    extern "C" {
        pub fn request(buf: *mut u8, cap: usize) -> usize;
        pub fn read(buf: *mut u8, cap: usize) -> usize;
        pub fn respond(status: u32, buf: *const u8, len: usize);
        pub fn write(buf: *const u8, len: usize);
        pub fn log(buf: *const u8, len: usize);
        pub fn env(name: *const u8, name_len: usize, buf: *mut u8, cap: usize) -> i32;
        pub fn random(buf: *mut u8, len: usize);
        pub fn time() -> i64;
    }
}

/// A request. Its body is read as it comes.
pub struct Request {
    pub method: String,
    /// Path and query, as they were sent.
    pub target: String,
    pub host: String,
    pub proto: String,
    /// Length of the body in bytes, where it is known.
    pub length: Option<u64>,
    pub fields: Vec<(String, String)>,
    pub body: Body,
}

impl Request {
    fn get() -> Request {
        let mut buf = vec![0u8; 4096];
        loop {
            let size = unsafe { host::request(buf.as_mut_ptr(), buf.len()) };
            let fits = size <= buf.len();
            buf.resize(size, 0);
            if fits {
                break;
            }
        }
        let mut parts = buf.split(|b| *b == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        let mut next = || parts.next().unwrap_or_default();
        let (method, target, host, proto, length) = (next(), next(), next(), next(), next());
        let mut fields = Vec::new();
        loop {
            let (name, value) = (next(), next());
            if name.is_empty() {
                break;
            }
            fields.push((name, value));
        }
        Request { method, target, host, proto, length: length.parse().ok(), fields, body: Body(()) }
    }

    /// The first field of that name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The target without its query, as it was sent.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    /// What follows the first ? of the target; empty where there is none.
    pub fn query(&self) -> &str {
        self.target.find('?').map_or("", |at| &self.target[at + 1..])
    }
}

/// The body of the request. Reading it never fails: one that breaks off ends the call.
pub struct Body(());

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(unsafe { host::read(buf.as_mut_ptr(), buf.len()) })
    }
}

/// The head of an answer. It is given by send, once.
pub struct Response {
    status: u32,
    fields: Vec<u8>,
}

impl Response {
    /// A head with a status from 200 to 599.
    pub fn new(status: u32) -> Response {
        Response { status, fields: Vec::new() }
    }

    /// Adds a field. A name or value that is none makes the answer a bad one; a NUL byte in it is a panic, as more fields
    /// could follow it.
    pub fn header(mut self, name: &str, value: &str) -> Response {
        for text in [name, value] {
            assert!(!text.contains('\0'), "lambent: there is a NUL byte in a field of the header");
            self.fields.extend_from_slice(text.as_bytes());
            self.fields.push(0);
        }
        self
    }

    /// Gives the head; what is written to the result is the body.
    pub fn send(self) -> Writer {
        unsafe { host::respond(self.status, self.fields.as_ptr(), self.fields.len()) };
        Writer(())
    }

    /// Gives the head and the whole body.
    pub fn with(self, body: impl AsRef<[u8]>) -> io::Result<()> {
        self.send().write_all(body.as_ref())
    }
}

/// The body of the answer. Writing never fails: a client that has left ends the call. The host gathers small pieces.
pub struct Writer(());

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        unsafe { host::write(buf.as_ptr(), buf.len()) };
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line to the log.
pub fn log(text: &str) {
    unsafe { host::log(text.as_ptr(), text.len()) }
}

/// A variable of the function's environment. With WASI, std::env::var gives the same.
pub fn env(name: &str) -> Option<String> {
    let mut buf = vec![0u8; 256];
    loop {
        let size = unsafe { host::env(name.as_ptr(), name.len(), buf.as_mut_ptr(), buf.len()) };
        if size < 0 {
            return None;
        }
        let fits = size as usize <= buf.len();
        buf.resize(size as usize, 0);
        if fits {
            return Some(String::from_utf8_lossy(&buf).into_owned());
        }
    }
}

/// Fills buf with random bytes that are fit for cryptography.
pub fn random(buf: &mut [u8]) {
    unsafe { host::random(buf.as_mut_ptr(), buf.len()) }
}

/// The time in nanoseconds since 1970 began, UTC.
pub fn time() -> i64 {
    unsafe { host::time() }
}

/// Serves one request; for the macro handle.
pub fn serve<E: std::fmt::Display>(answer: impl FnOnce(Request) -> Result<(), E>) {
    // Without WASI there is no stderr for the message of a panic.
    #[cfg(target_os = "unknown")]
    std::panic::set_hook(Box::new(|panic| log(&panic.to_string())));
    if let Err(e) = answer(Request::get()) {
        panic!("the request failed: {}", e);
    }
}

/// Exports a function from [`Request`] to a `Result` as what Lambent calls.
macro_rules! handle {
    ($answer:path) => {
        #[no_mangle]
        pub extern "C" fn handle() {
            lambent::serve($answer)
        }
    };
}
pub(crate) use handle;
