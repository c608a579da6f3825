//! The watchdog stops the server and removes its directory when the process that started it is
//! gone.
//!
//! A shell holds the read end of a pipe. Only this process has the write end, as the standard
//! library opens pipes close-on-exec. However this process ends, the kernel closes the write end,
//! and the shell's `read` returns. The shell runs in a process group of its own, so that Ctrl-C on
//! the terminal does not reach it. It ignores the signal of a closing terminal.
//!
//! Invariant: the watchdog is started before anything that it has to clean up.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::Error;

/// Waits for the end of the pipe. Then it stops what runs on the data directory, and removes the
/// directory of the server.
///
/// It finds the postmaster by its pid file. It finds `initdb` and the like, which may still be
/// running, by the pid file that we write. It removes the directory again and again, until no
/// process writes to it any more.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
read -r _
for file in "$1/postmaster.pid" "$2/program.pid"; do
    if [ -f "$file" ]; then
        read -r pid < "$file"
        case "$pid" in
            ''|*[!0-9]*) ;;
            *)
                kill -QUIT "$pid" 2>/dev/null
                tries=0
                while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do
                    sleep 0.05
                    tries=$((tries + 1))
                done
                kill -KILL "$pid" 2>/dev/null
                ;;
        esac
    fi
done
tries=0
while [ -e "$2" ] && [ "$tries" -lt 100 ]; do
    rm -rf "$2" 2>/dev/null || sleep 0.05
    tries=$((tries + 1))
done
"#;

/// The shell that watches.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
}

impl Watchdog {
    /// Watches the server on `data`. The watchdog removes `work` at the end.
    pub(crate) fn start(data: &Path, work: &Path) -> Result<Self, Error> {
        let child = Command::new("/bin/sh")
            .arg("-c")
            .arg(SCRIPT)
            .arg("gen_durable-watchdog")
            .arg(data)
            .arg(work)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::io("start the watchdog"))?;
        Ok(Self { child })
    }
}

/// Closes the pipe and waits until everything is gone.
impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
