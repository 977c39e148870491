//! The conformance function as a reactor in Rust.
mod lambent;

use lambent::{Request, Response};
use std::io::{copy, sink, Write};

fn answer(mut r: Request) -> std::io::Result<()> {
    let plain = |status| Response::new(status).header("Content-Type", "text/plain; charset=utf-8");
    match r.path().to_string().as_str() {
        "/hello" => plain(200).with("hello\n"),
        "/echo" => {
            let mut w = Response::new(200)
                .header("Content-Type", r.header("content-type").unwrap_or(""))
                .header("X-Request", &format!("{} {} {}", r.method, r.path(), r.query()))
                .header("X-Tag", r.header("X-TAG").unwrap_or(""))
                .send();
            copy(&mut r.body, &mut w).map(drop)
        }
        "/count" => {
            let n = copy(&mut r.body, &mut sink())?;
            writeln!(plain(200).send(), "{}", n)
        }
        "/big" => {
            let mut w = plain(200).send();
            for _ in 0..r.query().parse().unwrap() {
                writeln!(w, "{}", "x".repeat(1023))?;
            }
            Ok(())
        }
        "/teapot" => Response::new(418).header("Set-Cookie", "a=1").header("Set-Cookie", "b=2").with("short and stout"),
        "/env" => plain(200).with(lambent::env("COLOUR").unwrap() + &lambent::env("NONE").unwrap_or_default()),
        "/log" => {
            lambent::log("one line");
            plain(200).with("logged")
        }
        "/panic" => panic!("on purpose"),
        "/partly" => {
            plain(200).with("half of it")?;
            panic!("on purpose");
        }
        "/bad" => Response::new(200).header("A B", "c").with(""),
        "/inject" => Response::new(303).header("Location", "/\0Set-Cookie\0id=1").with(""),
        "/fail" => Err(std::io::Error::new(std::io::ErrorKind::Other, "on purpose")),
        _ => Ok(()),
    }
}

lambent::handle!(answer);
