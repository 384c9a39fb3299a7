//! A vendor's service on loopback that answers as it was told, well or badly, and counts who asked for what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

/// How one request is answered.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Status, headers, body, whole.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A head that announces more than comes before the connection ends.
    Cut(Vec<u8>),
    /// A head, and never a body.
    Silent,
    /// A body without a length and without an end.
    Endless,
    /// A length that is too large, and no body.
    Announced(usize),
}

impl Reply {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Whole(200, Vec::new(), body.into())
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Whole(status, Vec::new(), b"{}".to_vec())
    }

    pub(crate) fn with(self, name: &'static str, value: impl Into<String>) -> Self {
        match self {
            Self::Whole(status, mut headers, body) => {
                headers.push((name, value.into()));
                Self::Whole(status, headers, body)
            }
            other => other,
        }
    }
}

pub(crate) struct Replay {
    pub(crate) url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    /// By path and query; each is used up but the last.
    replies: Mutex<HashMap<String, Vec<Reply>>>,
    otherwise: Mutex<Reply>,
    asked: Mutex<Vec<String>>,
    /// The heads of the requests, whole.
    heads: Mutex<Vec<String>>,
    news: Notify,
    /// As many answers leave as there are permits.
    gate: Semaphore,
}

impl Replay {
    /// Starts one that answers 404 to everything.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            replies: Mutex::default(),
            otherwise: Mutex::new(Reply::status(404)),
            asked: Mutex::default(),
            heads: Mutex::default(),
            news: Notify::new(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&serving)));
            }
        });
        Self { url, shared, task }
    }

    /// Answers this path, one after the other, the last for ever.
    pub(crate) fn answers(&self, path: &str, replies: impl Into<Vec<Reply>>) {
        let mut all = self.shared.replies.lock().unwrap();
        all.insert(path.to_owned(), replies.into());
    }

    /// Answers every other path.
    pub(crate) fn answers_otherwise(&self, reply: Reply) {
        *self.shared.otherwise.lock().unwrap() = reply;
    }

    /// Lets no answer leave until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.shared.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn release(&self) {
        self.shared.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// What was asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The heads of the requests for this path.
    pub(crate) fn heads(&self, path: &str) -> Vec<String> {
        let heads = self.shared.heads.lock().unwrap();
        let of_path = heads
            .iter()
            .filter(|head| head.split(' ').nth(1) == Some(path));
        of_path.cloned().collect()
    }

    /// Waits until this path was asked for so many times.
    pub(crate) async fn until(&self, path: &str, times: usize) {
        loop {
            let news = self.shared.news.notified();
            if self.heads(path).len() >= times {
                return;
            }
            news.await;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.asked().len()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let path = text.split(' ').nth(1).unwrap().to_owned();
    // What is left unread would reset the connection under the answer.
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut body).await.is_err() {
        return;
    }
    shared.asked.lock().unwrap().push(path.clone());
    shared.heads.lock().unwrap().push(text);
    shared.news.notify_waiters();
    let scripted = {
        let mut replies = shared.replies.lock().unwrap();
        replies.get_mut(&path).map(|left| match left.len() {
            1 => left[0].clone(),
            _ => left.remove(0),
        })
    };
    let reply = scripted.unwrap_or_else(|| shared.otherwise.lock().unwrap().clone());
    let permit = shared.gate.acquire().await.unwrap();
    // Whoever asked may have gone: what cannot be written is not.
    let _gone = say(&mut stream, reply).await;
    drop(permit);
}

async fn say(stream: &mut TcpStream, reply: Reply) -> std::io::Result<()> {
    let head =
        |status: u16, more: &str| format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{more}\r\n");
    match reply {
        Reply::Whole(status, headers, body) => {
            let mut more = format!("content-length: {}\r\n", body.len());
            for (name, value) in headers {
                more.push_str(&format!("{name}: {value}\r\n"));
            }
            stream.write_all(head(status, &more).as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Reply::Cut(body) => {
            let more = format!("content-length: {}\r\n", body.len() + 100);
            stream.write_all(head(200, &more).as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Reply::Announced(length) => {
            let more = format!("content-length: {length}\r\n");
            stream.write_all(head(200, &more).as_bytes()).await?;
        }
        Reply::Silent => {
            stream
                .write_all(head(200, "content-length: 100\r\n").as_bytes())
                .await?;
            // Ends when the other side leaves.
            stream.read_u8().await.map(drop)?;
        }
        Reply::Endless => {
            stream.write_all(head(200, "").as_bytes()).await?;
            loop {
                stream.write_all(&[b'0'; 16 * 1024]).await?;
            }
        }
    }
    stream.shutdown().await
}
