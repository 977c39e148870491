// A command in Rust: see command.c.
use std::io::{Read, Write};
use std::sync::Mutex;

static KEPT: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn main() {
    let mut line = String::new();
    std::io::stdin().read_to_string(&mut line).unwrap();
    let more = vec![7u8; if line.len() < 100 { 100 } else { 3 << 20 }];
    let mut kept = KEPT.lock().unwrap();
    kept.push(line.clone());
    print!("Content-Type: text/plain\n\nrun {}: {}", kept.len(), line);
    std::io::stdout().flush().unwrap();
    if more[more.len() - 1] != 7 || line == "fail" {
        std::process::exit(3)
    }
}
