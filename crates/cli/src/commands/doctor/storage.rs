//! Whether what is stored can be read from here: a file is opened and read from, an address asked and its answer judged.

use std::fs::File;
use std::io::Read as _;

use strongroom_client::http::{Endpoint, EndpointOptions};

use super::{PATIENCE, Walk};

impl Walk {
    pub(super) async fn storage(&mut self, named: &str) {
        match named.split_once("://") {
            None => self.file(named),
            Some(("file", path)) => self.file(path),
            Some(("http" | "https", _)) => self.address(named).await,
            Some((scheme, _)) => self.fail(
                NAME,
                format!("{named}: nothing is known here of {scheme}://"),
                "it is no address that this step can ask, so nothing is known of it",
                "name the https:// address that the objects are read from, or the file where the volume is mounted",
            ),
        }
    }

    fn file(&mut self, path: &str) {
        let read = File::open(path).and_then(|mut file| match file.metadata()?.is_dir() {
            true => Ok(format!(
                "a folder with {} entries",
                std::fs::read_dir(path)?.count()
            )),
            false => {
                // A file that is listed need not be readable: a network's volume says so with the first byte.
                let empty = file.read(&mut [0])? == 0;
                match empty && file.metadata()?.is_file() {
                    true => Ok("empty".to_owned()),
                    false => Ok(format!("{} bytes", file.metadata()?.len())),
                }
            }
        });
        match read {
            Ok(what) => self.pass(NAME, format!("{path}: {what}")),
            Err(error) => self.fail(
                NAME,
                format!("{path}: {error}"),
                "the file is not there, or not for this user",
                "correct the path, mount the volume, or let this user read it",
            ),
        }
    }

    async fn address(&mut self, named: &str) {
        let options = EndpointOptions {
            timeout: PATIENCE,
            ..EndpointOptions::default()
        };
        let probed = match Endpoint::new(named, options) {
            Ok(endpoint) => endpoint.probe().await,
            Err(error) => Err(error),
        };
        // A signature in the address must not be printed.
        let shown = named.split(['?', '#']).next().unwrap_or(named);
        let status = match probed {
            Ok(answer) => answer.status,
            Err(error) => {
                return self.fail(
                    NAME,
                    error.to_string(),
                    "the guest has no way to the storage, or its certificate is not trusted here",
                    "open the way (NAT gateway, firewall), or correct the address",
                );
            }
        };
        let (cause, mend) = match status {
            200..=299 => return self.pass(NAME, format!("{shown}: {status}")),
            300..=399 => (
                "the object is somewhere else, and nothing here follows: who redirects could send the guest anywhere",
                "name the address that it redirects to",
            ),
            401 | 403 => (
                "the storage does not let this address be read: no credential, one that has ended, or one without the right \
                 to read this object",
                "sign the address anew with the right to read (a presigned URL, or a SAS token with sp=r), and mind that its \
                 end lies after the job's",
            ),
            404 | 410 => (
                "there is no such object, or not under this name",
                "correct the bucket, container or name; upload the encrypted file there",
            ),
            500.. => (
                "the storage itself fails",
                "ask again; then ask whoever runs it",
            ),
            _ => (
                "the storage does not understand the request",
                "correct the address",
            ),
        };
        self.fail(NAME, format!("{shown}: answered {status}"), cause, mend);
    }
}

const NAME: &str = "storage";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::super::{Status, Step};
    use super::*;

    fn walked(named: &str) -> Step {
        let mut walk = Walk::default();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(walk.storage(named));
        walk.steps.remove(0)
    }

    fn answered(status: u16) -> Step {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/bucket/rows?sig=hunter2",
            listener.local_addr().unwrap()
        );
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let step = walked(&url);
        server.join().unwrap();
        step
    }

    #[test]
    fn storage_that_refuses_passes_because_it_answers() {
        for (status, words) in [
            (401, "sp=r"),
            (403, "presigned"),
            (404, "upload"),
            (302, "redirects"),
            (500, "ask again"),
            (400, "correct the address"),
        ] {
            let step = answered(status);
            assert_eq!(step.status, Status::Fail, "{status}");
            assert!(step.mend.unwrap().contains(words), "{status}");
            assert!(step.detail.contains(&status.to_string()));
            assert!(!step.detail.contains("hunter2"), "{}", step.detail);
        }
        assert_eq!(answered(200).status, Status::Pass);
    }

    #[test]
    fn file_that_cannot_be_read_or_scheme_that_nobody_knows_passes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows");
        std::fs::write(&file, "x").unwrap();
        let named = file.to_str().unwrap();
        assert_eq!(walked(named).status, Status::Pass);
        assert_eq!(walked(&format!("file://{named}")).status, Status::Pass);
        assert_eq!(walked(folder.path().to_str().unwrap()).status, Status::Pass);
        assert_eq!(walked(&format!("{named}2")).status, Status::Fail);
        // A file whose first byte is an error: what a process may not read of its own memory.
        assert_eq!(walked("/proc/self/mem").status, Status::Fail);
        for scheme in ["s3://bucket/rows", "gs://bucket/rows", "ftp://host/rows"] {
            let step = walked(scheme);
            assert_eq!(step.status, Status::Fail, "{scheme}");
            assert!(step.detail.contains("nothing is known"), "{}", step.detail);
        }
    }
}
