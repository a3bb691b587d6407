//! One run of the worker's command, from its start to what it left behind.

use super::result::{Head, gather};
use super::tail::{Tail, follow};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

/// So much fits into a fresh pipe whatever the system's limits are, so it can be written before anybody reads.
const PIPE_BYTES_MIN: usize = 4_096;
/// How long a command's output is read on after the command has ended: something that it left running in
/// the background may hold it open for ever.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// What is run, the same for every job.
#[derive(Debug)]
pub(super) struct Program {
    /// The command and its arguments.
    pub(super) command: Vec<OsString>,
    /// Whether standard output carries this process's own JSON, so that the command's goes to standard error.
    pub(super) keep_stdout: bool,
    /// Whether the command's standard error is kept for errors only, and not passed on.
    pub(super) quiet: bool,
    /// Whether the command's standard output is the job's result.
    pub(super) takes_result: bool,
}

/// What one run gets.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Its standard input.
    pub(super) stdin: Vec<u8>,
    /// Variables beside those that it inherits.
    pub(super) environment: Vec<(&'static str, String)>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Exit code 0, with the result where one was asked for.
    Well(Option<Vec<u8>>),
    /// Exit code 65: no attempt will ever succeed.
    Rejected(String),
    /// Anything else, with what is to be said about it.
    Badly(String),
}

/// The exit code that rejects a job for good: `EX_DATAERR` of sysexits.h.
const EXIT_REJECT: i32 = 65;

/// A running command.
pub(super) struct Running {
    child: Child,
    stderr: Tail,
    stdout: Option<Head>,
}

impl Program {
    /// Starts the command in a process group of its own, so that an interrupt from the terminal reaches the
    /// worker and not what it runs.
    ///
    /// # Errors
    /// As the operating system says; then the job was not touched.
    pub(super) fn start(&self, input: Input) -> io::Result<Running> {
        let (program, arguments) = self.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).envs(input.environment);
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        if self.takes_result {
            command.stdout(Stdio::piped());
        } else if self.keep_stdout {
            command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
        }
        let mut child = command.spawn()?;
        match self.connect(&mut child, input.stdin) {
            Ok((stderr, stdout)) => Ok(Running {
                child,
                stderr,
                stdout,
            }),
            Err(error) => {
                // Nobody would feed it; it must not go on with half a payload.
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    fn connect(&self, child: &mut Child, payload: Vec<u8>) -> io::Result<(Tail, Option<Head>)> {
        let stderr = match child.stderr.take() {
            Some(stderr) => follow(stderr, !self.quiet)?,
            None => Tail::default(),
        };
        if let Some(stdin) = child.stdin.take() {
            feed(stdin, payload)?;
        }
        let stdout = child.stdout.take().map(gather).transpose()?;
        Ok((stderr, stdout))
    }
}

impl Running {
    /// The command's process id, which is its process group's too.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the command. `before_reap` is called when it has ended, while its process id cannot
    /// yet stand for another process.
    pub(super) fn wait(mut self, before_reap: impl FnOnce()) -> Ended {
        wait_without_reaping(&self.child);
        before_reap();
        match self.child.wait() {
            Ok(status) => match ended(status, &self.stderr.wait(OUTPUT_GRACE)) {
                Ended::Well(_) => Ended::Well(self.stdout.map(|stdout| stdout.wait(OUTPUT_GRACE))),
                otherwise => otherwise,
            },
            Err(error) => Ended::Badly(format!("cannot learn how the command ended: {error}")),
        }
    }
}

fn wait_without_reaping(child: &Child) {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    // Interrupted or impossible: `wait` right behind this one tells.
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(Pid::from_child(child)), options) {}
}

/// Writes the payload. A command that ends without reading it has decided that it does not need it.
fn feed(mut stdin: ChildStdin, payload: Vec<u8>) -> io::Result<()> {
    let is_small = payload.len() <= PIPE_BYTES_MIN;
    let mut write = move || {
        let _ = stdin.write_all(&payload);
    };
    if is_small {
        write();
        return Ok(());
    }
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(write)
        .map(|_| ())
}

fn ended(status: ExitStatus, stderr: &str) -> Ended {
    let or_else = |instead: String| {
        if stderr.is_empty() {
            instead
        } else {
            stderr.to_owned()
        }
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Ended::Well(None),
        (Some(EXIT_REJECT), _) => Ended::Rejected(or_else("rejected (exit code 65)".to_owned())),
        (Some(code), _) => Ended::Badly(or_else(format!("exit code {code}"))),
        (None, signal) => {
            let name = signal.map_or_else(|| "a signal".to_owned(), signal_name);
            let more = if stderr.is_empty() {
                String::new()
            } else {
                format!(": {stderr}")
            };
            Ended::Badly(format!("killed by {name}{more}"))
        }
    }
}

fn signal_name(signal: i32) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => format!("signal {signal} ({name})"),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, stdin: &[u8]) -> Ended {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        let program = Program {
            command,
            keep_stdout: true,
            quiet: true,
            takes_result: false,
        };
        let environment = vec![("ACKRING_ATTEMPT", "7".to_owned())];
        program
            .start(Input {
                stdin: stdin.to_vec(),
                environment,
            })
            .unwrap()
            .wait(|| {})
    }

    #[test]
    fn the_exit_code_decides() {
        assert_eq!(run("exit 0", b""), Ended::Well(None));
        assert_eq!(run("echo no >&2; exit 65", b""), Ended::Rejected("no".to_owned()));
        assert_eq!(run("echo why >&2; exit 3", b""), Ended::Badly("why".to_owned()));
        assert_eq!(run("exit 3", b""), Ended::Badly("exit code 3".to_owned()));
        assert_eq!(
            run("kill -9 $$", b""),
            Ended::Badly("killed by signal 9 (SIGKILL)".to_owned())
        );
        assert_eq!(
            run("exit $ACKRING_ATTEMPT", b""),
            Ended::Badly("exit code 7".to_owned())
        );
    }

    #[test]
    fn standard_output_is_the_result_where_it_is_asked_for() {
        let command = ["sh", "-c", "cat; echo done; exit $ACKRING_ATTEMPT"]
            .map(OsString::from)
            .to_vec();
        let program = Program {
            command,
            keep_stdout: true,
            quiet: true,
            takes_result: true,
        };
        let run = |code: &str| {
            let input = Input {
                stdin: b"payload ".to_vec(),
                environment: vec![("ACKRING_ATTEMPT", code.to_owned())],
            };
            program.start(input).unwrap().wait(|| {})
        };
        assert_eq!(run("0"), Ended::Well(Some(b"payload done\n".to_vec())));
        assert_eq!(run("4"), Ended::Badly("exit code 4".to_owned()));
    }

    #[test]
    fn a_large_payload_passes_while_the_command_talks() {
        let payload = vec![b'x'; 1 << 20];
        // Talks more than a pipe holds before it reads: writing first, and only then reading, would stand still.
        let script = "head -c 300000 /dev/zero >&2; test $(wc -c) -eq 1048576";
        assert_eq!(run(script, &payload), Ended::Well(None));
    }

    #[test]
    fn a_command_need_not_read_its_input() {
        assert_eq!(run("exec <&-; exit 0", &vec![b'x'; 1 << 20]), Ended::Well(None));
        assert_eq!(run("exit 0", b"small"), Ended::Well(None));
    }

    #[test]
    fn what_is_left_running_does_not_hold_the_worker_up() {
        let command = ["sh", "-c", "sleep 600 & exit 0"].map(OsString::from).to_vec();
        let program = Program {
            command,
            keep_stdout: true,
            quiet: true,
            takes_result: false,
        };
        let running = program.start(Input::default()).unwrap();
        let group = rustix::process::Pid::from_child(&running.child);
        assert_eq!(running.wait(|| {}), Ended::Well(None));
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn a_missing_command_is_told_before_anything_happens() {
        let command = vec![OsString::from("/nowhere/at/all")];
        let program = Program {
            command,
            keep_stdout: false,
            quiet: true,
            takes_result: false,
        };
        assert_eq!(
            program.start(Input::default()).err().unwrap().kind(),
            io::ErrorKind::NotFound
        );
    }
}
