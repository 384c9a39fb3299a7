//! A throw-away OCI registry for one test: Debian's `docker-registry` on a loopback port, its files in a folder that goes
//! with it, where a test may change them behind its back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fixtures::peer;
use crate::process::{Program, Running};

/// A running registry. It ends, and its files go, when this is dropped.
#[derive(Debug)]
pub struct Registry {
    // Ends before its files go.
    _running: Running,
    folder: PathBuf,
    address: String,
}

/// Who may use a registry.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Admission {
    /// Everybody.
    #[default]
    Anyone,
    /// User `owner` with the password `correct horse`.
    Password,
}

impl Registry {
    /// Starts a registry, or says that the test is skipped when there is none on this machine.
    ///
    /// # Panics
    /// When it is there and does not start, or it is missing and peers are required.
    pub fn start(admission: Admission) -> Option<Self> {
        let program = peer("docker-registry")?;
        // The port is taken by the registry itself; two tests at once may pick one, and the second then tries another.
        (0..TRIES).find_map(|_| Self::start_at(&program, admission))
    }

    fn start_at(program: &Path, admission: Admission) -> Option<Self> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let folder =
            std::env::temp_dir().join(format!("strongroom-registry-{}-{port}", std::process::id()));
        fs::create_dir(&folder).expect("nobody else has a folder of this name");
        let address = format!("127.0.0.1:{port}");
        let auth = match admission {
            Admission::Anyone => String::new(),
            Admission::Password => {
                let file = folder.join("htpasswd");
                fs::write(&file, HTPASSWD).expect("the folder is new");
                format!(
                    "auth:\n  htpasswd: {{realm: test, path: {}}}\n",
                    file.display()
                )
            }
        };
        let configuration = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: \"{address}\"}}\n{auth}",
            folder.join("data").display()
        );
        let file = folder.join("registry.yml");
        fs::write(&file, configuration).expect("the folder is new");
        let running = Program::new(program)
            .args(["serve".as_ref(), file.as_os_str()])
            .limit(Duration::from_secs(30))
            .start()
            .expect("the registry starts");
        match running.wait_for_line("listening on") {
            Ok(_) => Some(Self {
                _running: running,
                folder,
                address,
            }),
            Err(_) => {
                fs::remove_dir_all(&folder).ok();
                None
            }
        }
    }

    /// Its host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The file in which it keeps a blob, by the digest's hex.
    pub fn blob(&self, hex: &str) -> PathBuf {
        let two = hex.get(..2).expect("a digest in hex");
        self.folder
            .join("data/docker/registry/v2/blobs/sha256")
            .join(two)
            .join(hex)
            .join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

const TRIES: usize = 5;
/// `owner`, with the bcrypt hash of `correct horse`.
const HTPASSWD: &str = "owner:$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n";
