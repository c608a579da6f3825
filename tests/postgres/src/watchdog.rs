//! Stops the server and removes its directory when the process that started it is gone.
//!
//! A shell holds the read end of a pipe whose write end this process has, and nobody else: the
//! standard library opens pipes close-on-exec. However this process ends, the kernel closes the
//! write end, and the shell's `read` returns. It runs in a process group of its own, so that Ctrl-C
//! on the terminal does not reach it, and it ignores what a closing terminal sends.
//!
//! Invariant: the watchdog is started before anything that it has to clean up.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::Error;

/// Waits for the end of the pipe; then stops what runs on the data directory, and removes the
/// directory that is to go. The postmaster is found by its pid file; initdb and the like, which may
/// still be running, by the pid file that we keep. Whatever was about to be written is removed again
/// until nothing is left.
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
    /// Watches the server on `data`; `work` is removed at the end.
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
