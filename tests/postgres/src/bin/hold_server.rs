//! Starts a server and waits: the tests of the watchdog kill this program.
//!
//! Invariant: it prints the socket's directory and the server's pid once the server is ready.

use std::io::Read;

use gen_durable_test_postgres::Server;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().fast(true).start()?;
    println!("{} {}", server.socket_dir().display(), server.pid().unwrap_or(0));
    // Waits until the parent closes the pipe or kills this process.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
