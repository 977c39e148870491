//! The conformance function as a WASI command in Rust.
use std::env::var;
use std::io::{copy, sink, stdin, stdout, Read, Write};
use std::time::{Duration, Instant};

fn main() {
    let v = |name: &str| var(name).unwrap_or_default();
    let (path, query) = (v("PATH_INFO"), v("QUERY_STRING"));
    match path.as_str() {
        "/hello" => println!("hello"),
        "/echo" => {
            print!("Content-Type: {}\nX-Request: {} {} {}\nX-Tag: {}\n\n", v("CONTENT_TYPE"), v("REQUEST_METHOD"), path, query, v("HTTP_X_TAG"));
            let mut buf = [0; 8192];
            loop {
                let n = stdin().read(&mut buf).unwrap();
                if n == 0 {
                    break;
                }
                stdout().write_all(&buf[..n]).unwrap();
                stdout().flush().unwrap();
            }
        }
        "/count" => println!("{}", copy(&mut stdin(), &mut sink()).unwrap()),
        "/big" => {
            for _ in 0..query.parse().unwrap() {
                println!("{}", "x".repeat(1023));
            }
        }
        "/teapot" => print!("Status: 418 I'm a teapot\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nshort and stout"),
        "/env" => print!("{}{}", v("COLOUR"), v("NONE")),
        "/log" => {
            eprintln!("one line");
            print!("logged");
        }
        "/sleep" => {
            let begun = Instant::now();
            std::thread::sleep(Duration::from_millis(20));
            print!("{}", begun.elapsed() >= Duration::from_millis(20));
        }
        "/exit" => {
            eprintln!("about to go");
            std::process::exit(3);
        }
        "/panic" => panic!("on purpose"),
        "/partly" => {
            println!("half of it");
            panic!("on purpose");
        }
        "/bad" => print!("Content-Type: a/b\nA B: c\n\n"),
        "/files" => println!("{}", if std::fs::read("/etc/passwd").is_ok() { "opened" } else { "none" }),
        _ => {
            let _ = stdin().read(&mut []);
            stdout().flush().unwrap();
        }
    }
}
