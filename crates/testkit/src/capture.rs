//! A packet capture of loopback by `tcpdump`, for the leak scanner to search.
//!
//! Capturing needs tcpdump and the right to do it. What is missing is told as a reason to skip.
//! Both ends are events: the capture runs when tcpdump says so, and it is complete when a packet
//! that is sent last has come out of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::fixtures::peer;

/// A capture that runs. Dropping it ends tcpdump.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    path: PathBuf,
    closing: UdpSocket,
    closed: Receiver<()>,
    writer: Option<JoinHandle<io::Result<u64>>>,
}

impl Capture {
    /// Starts to capture TCP on loopback, of these ports or of all when none is named, into a file.
    ///
    /// # Errors
    /// When tcpdump is missing or may not capture: a reason to skip.
    ///
    /// # Panics
    /// When tcpdump is missing and peers are required.
    pub fn start(path: &Path, ports: &[u16]) -> Result<Self, CaptureError> {
        let program = peer("tcpdump").ok_or(CaptureError::NoTcpdump)?;
        let closing = UdpSocket::bind(("127.0.0.1", 0))?;
        let mut tcpdump = Command::new(program)
            .args(["-i", "lo", "-s", "0", "-B", "65536", "-n", "-U", "-w", "-"])
            .arg(filter(ports, closing.local_addr()?.port()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = tcpdump.stdout.take().expect("stdout is piped");
        let stderr = tcpdump.stderr.take().expect("stderr is piped");
        let refusal = wait_until_it_listens(stderr);
        let (rang, closed) = mpsc::channel();
        let file = File::create(path)?;
        let writer = thread::spawn(move || write_out(stdout, file, &rang));
        let capture = Self {
            tcpdump,
            path: path.to_path_buf(),
            closing,
            closed,
            writer: Some(writer),
        };
        match refusal {
            None => Ok(capture),
            Some(printed) => Err(CaptureError::Refused(printed)),
        }
    }

    /// Ends the capture when every packet sent before this call is in the file, and returns the
    /// file's length.
    ///
    /// # Errors
    /// When the file cannot be written, or tcpdump lost the end.
    pub fn stop(mut self) -> Result<u64, CaptureError> {
        let here = self.closing.local_addr()?;
        let tries = 50;
        let mut heard = false;
        for _ in 0..tries {
            self.closing.send_to(CLOSING, here)?;
            match self.closed.recv_timeout(Duration::from_millis(200)) {
                Ok(()) => {
                    heard = true;
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.end();
        let writer = self.writer.take().expect("only stop and drop take it");
        let length = writer.join().expect("the writer does not panic")?;
        if heard {
            Ok(length)
        } else {
            Err(CaptureError::Incomplete(self.path.clone()))
        }
    }

    fn end(&mut self) {
        let pid = Pid::from_child(&self.tcpdump);
        if let Ok(None) = self.tcpdump.try_wait() {
            rustix::process::kill_process(pid, Signal::INT).ok();
        }
        self.tcpdump.wait().ok();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The last packet never came out of tcpdump.
    #[error("the capture in {} lacks its end", .0.display())]
    Incomplete(PathBuf),
    /// A socket or the file failed.
    #[error("cannot capture")]
    Io(#[from] io::Error),
    /// The program is not installed.
    #[error("tcpdump is not installed")]
    NoTcpdump,
    /// It is not allowed to capture here.
    #[error("tcpdump may not capture here: {0}")]
    Refused(String),
}

fn filter(ports: &[u16], closing: u16) -> String {
    let tcp = if ports.is_empty() {
        "tcp".to_owned()
    } else {
        let ports: Vec<String> = ports
            .iter()
            .map(|port| format!("tcp port {port}"))
            .collect();
        ports.join(" or ")
    };
    format!("{tcp} or udp port {closing}")
}

/// Returns `None` when tcpdump captures, else what it printed before it gave up.
fn wait_until_it_listens(mut stderr: impl Read + Send + 'static) -> Option<String> {
    let mut printed = Vec::new();
    let mut byte = [0];
    while let Ok(1) = stderr.read(&mut byte) {
        printed.push(byte[0]);
        if byte == *b"\n" && String::from_utf8_lossy(&printed).contains("listening on") {
            // Its closing counts must not fill the pipe.
            thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
            return None;
        }
    }
    Some(String::from_utf8_lossy(&printed).trim().to_owned())
}

/// Copies the capture to the file, and tells when the closing packet went by.
fn write_out(mut stdout: ChildStdout, mut file: File, rang: &mpsc::Sender<()>) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut seen: Vec<u8> = Vec::new();
    let mut length = 0;
    loop {
        let read = stdout.read(&mut buffer)?;
        if read == 0 {
            file.sync_all()?;
            return Ok(length);
        }
        file.write_all(&buffer[..read])?;
        length += read as u64;
        seen.extend_from_slice(&buffer[..read]);
        if seen.windows(CLOSING.len()).any(|window| window == CLOSING) {
            file.flush()?;
            // Nobody listens any more when the test has given up.
            rang.send(()).ok();
        }
        seen.drain(..seen.len().saturating_sub(CLOSING.len() - 1));
    }
}

const CLOSING: &[u8] = b"strongroom-testkit: the last packet of this capture";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::fixtures::skip;
    use crate::leak::Scanner;

    const TOLD: &[u8] = b"a secret that was told in the clear";

    /// Sends `TOLD` over a connection of its own and returns the port.
    fn tell(listener: &TcpListener) {
        let mut from = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut to, _) = listener.accept().unwrap();
        from.write_all(TOLD).unwrap();
        drop(from);
        let mut heard = Vec::new();
        to.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, TOLD);
    }

    fn hits_when_listening_to(ports: impl Fn(u16) -> Vec<u16>) -> Option<usize> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lo.pcap");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let capture = match Capture::start(&path, &ports(port)) {
            Ok(capture) => capture,
            Err(CaptureError::NoTcpdump) => return None,
            Err(error) => {
                skip(&error.to_string());
                return None;
            }
        };
        tell(&listener);
        let length = capture.stop().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
        let report = Scanner::new([("told", TOLD)]).unwrap().scan([&path]);
        Some(report.unwrap().hits.len())
    }

    #[test]
    fn what_was_told_in_the_clear_is_in_the_capture() {
        if let Some(hits) = hits_when_listening_to(|port| vec![port]) {
            assert_eq!(hits, 1);
        }
    }

    #[test]
    fn another_port_is_not_in_the_capture() {
        if let Some(hits) = hits_when_listening_to(|port| vec![port.wrapping_add(1).max(1)]) {
            assert_eq!(hits, 0);
        }
    }

    #[test]
    fn no_port_means_every_port() {
        assert_eq!(filter(&[], 9), "tcp or udp port 9");
        assert_eq!(
            filter(&[80, 443], 9),
            "tcp port 80 or tcp port 443 or udp port 9"
        );
    }
}
