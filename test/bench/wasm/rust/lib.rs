//! Answers "ok".
mod lambent;
use std::sync::atomic::{AtomicU32, Ordering};

static mut VARIANT: u32 = 0; // of the module: see wasm_module.go
static SERVED: AtomicU32 = AtomicU32::new(0);

fn answer(_: lambent::Request) -> std::io::Result<()> {
    unsafe { std::ptr::write_volatile(std::ptr::addr_of_mut!(VARIANT), 0x1badcafe) };
    if SERVED.fetch_add(1, Ordering::Relaxed) > 0 {
        return lambent::Response::new(418).with("this instance is not pristine");
    }
    lambent::Response::new(200).header("Content-Type", "text/plain").with("ok\n")
}

lambent::handle!(answer);
