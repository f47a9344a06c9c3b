//! The way into a machine: a line each way over a virtio-serial port, and files in the shared folder. The other end is
//! `guest/root/lab/agent`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::tools::{Trouble, about};

/// How much longer than a command's own deadline its answer may take: the deadline is kept inside, where time runs as
/// slowly as the emulation.
const GRACE: Duration = Duration::from_secs(30);

/// What a machine answers.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It is there.
    Ready,
    /// The command of this number ended with this code.
    Done(String, i32),
}

fn parse(line: &str) -> Option<Answer> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["ready", _] => Some(Answer::Ready),
        ["done", id, code] => Some(Answer::Done(id.to_owned(), code.parse().ok()?)),
        _ => None,
    }
}

/// How a command ended inside.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; 124 and 137 where it overran its deadline.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// A connection to the agent of a machine.
#[derive(Debug)]
pub struct Channel {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
    folder: PathBuf,
    prefix: String,
    count: u32,
}

impl Channel {
    /// Connects to the socket of a machine whose files go through `folder`, and waits for its agent.
    ///
    /// # Errors
    /// Where nobody answers in time.
    pub async fn open(socket: &Path, folder: &Path, within: Duration) -> Result<Self, Trouble> {
        fs::create_dir_all(folder).map_err(about(folder))?;
        let until = Instant::now() + within;
        let silent = || Trouble::fault(format!("the machine is not ready after {} s", within.as_secs()));
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > until => return Err(about(socket)(error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let (from, to) = stream.into_split();
        let lines = BufReader::new(from).lines();
        let prefix = format!("{:x}", std::process::id());
        let mut channel = Self { lines, to, folder: folder.to_owned(), prefix, count: 0 };
        while Instant::now() < until {
            // What is sent before the agent listens may be lost.
            channel.send("hello").await?;
            let waited = tokio::time::timeout(Duration::from_secs(2), channel.answer());
            match waited.await {
                Ok(Ok(Answer::Ready)) => return Ok(channel),
                Ok(Ok(Answer::Done(..))) | Err(_) => {}
                Ok(Err(trouble)) => return Err(trouble),
            }
        }
        Err(silent())
    }

    /// Runs a shell text inside; its processes are ended at the deadline.
    ///
    /// # Errors
    /// Where the machine does not answer.
    pub async fn run(&mut self, text: &str, deadline: Duration) -> Result<Output, Trouble> {
        self.count += 1;
        let id = format!("{}-{}", self.prefix, self.count);
        let file = |kind: &str| self.folder.join(format!("{id}.{kind}"));
        let (script, out, err) = (file("sh"), file("out"), file("err"));
        fs::write(&script, text).map_err(about(&script))?;
        self.send(&format!("run {id} {}", deadline.as_secs().max(1))).await?;
        let answer = async {
            loop {
                match self.answer().await? {
                    Answer::Done(it, code) if it == id => return Ok(code),
                    // The answer to a command that an earlier caller gave up, or to a second hello.
                    Answer::Done(..) | Answer::Ready => {}
                }
            }
        };
        let waited = tokio::time::timeout(deadline + GRACE, answer).await;
        let code = waited.map_err(|_| {
            Trouble::fault(format!("the machine does not answer within {} s", (deadline + GRACE).as_secs()))
        })??;
        let output = Output {
            code,
            stdout: fs::read(&out).map_err(about(&out))?,
            stderr: fs::read(&err).map_err(about(&err))?,
        };
        for path in [script, out, err] {
            let _ = fs::remove_file(path);
        }
        Ok(output)
    }

    /// Runs a shell text that has to succeed, and returns what it wrote.
    ///
    /// # Errors
    /// Where it does not succeed, with what it complained of.
    pub async fn succeed(&mut self, text: &str, deadline: Duration) -> Result<String, Trouble> {
        let output = self.run(text, deadline).await?;
        if output.code != 0 {
            let complaint = String::from_utf8_lossy(&output.stderr);
            return Err(Trouble::fault(format!("inside, code {}: {}", output.code, complaint.trim_end())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks the agent to end, and with it a machine without systemd.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub async fn end(&mut self) -> Result<(), Trouble> {
        self.send("end").await
    }

    async fn send(&mut self, line: &str) -> Result<(), Trouble> {
        let sent = self.to.write_all(format!("{line}\n").as_bytes()).await;
        sent.map_err(|error| Trouble::fault(format!("the machine is gone: {error}")))
    }

    async fn answer(&mut self) -> Result<Answer, Trouble> {
        loop {
            let line = self.lines.next_line().await;
            let line = line.map_err(|error| Trouble::fault(format!("the machine is gone: {error}")))?;
            let line = line.ok_or_else(|| Trouble::fault("the machine is gone"))?;
            if let Some(answer) = parse(&line) {
                return Ok(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[test]
    fn answers_are_read_and_noise_is_not() {
        assert_eq!(parse("ready 12.3"), Some(Answer::Ready));
        assert_eq!(parse("done 1f-2 137"), Some(Answer::Done("1f-2".to_owned(), 137)));
        for noise in ["", "done", "done 1", "done 1 x", "done 1 2 3", "ready", "hello"] {
            assert_eq!(parse(noise), None, "{noise:?}");
        }
    }

    /// A guest that answers an old command first, then says what it was asked to run.
    async fn agent(listener: UnixListener, folder: PathBuf) {
        let (stream, _) = listener.accept().await.unwrap();
        let (from, mut to) = stream.into_split();
        let mut lines = BufReader::new(from).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["hello"] => to.write_all(b"done 0-9 0\nready 1.0\nready 1.1\n").await.unwrap(),
                ["run", id, seconds] => {
                    let text = fs::read_to_string(folder.join(format!("{id}.sh"))).unwrap();
                    fs::write(folder.join(format!("{id}.out")), format!("{text} {seconds}")).unwrap();
                    fs::write(folder.join(format!("{id}.err")), "no").unwrap();
                    to.write_all(format!("done {id} 7\n").as_bytes()).await.unwrap();
                }
                _ => break,
            }
        }
    }

    #[tokio::test]
    async fn a_command_gets_its_own_answer() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let other = tokio::spawn(agent(listener, folder.path().to_owned()));
        let mut channel = Channel::open(&socket, folder.path(), Duration::from_secs(5)).await.unwrap();
        let output = channel.run("echo", Duration::from_secs(9)).await.unwrap();
        assert_eq!(
            (output.code, output.stdout.as_slice(), output.stderr.as_slice()),
            (7, &b"echo 9"[..], &b"no"[..])
        );
        let trouble = channel.succeed("false", Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(trouble.text, "inside, code 7: no");
        channel.end().await.unwrap();
        other.await.unwrap();
        assert!(channel.run("echo", Duration::from_secs(1)).await.is_err());
    }
}
