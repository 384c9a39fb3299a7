//! From threads that wait to requests that do not: a runtime of the storage's own, made when it is first needed.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;

use tokio::runtime::{Builder, Handle, Runtime};

use super::error::Cause;

/// Runs requests on threads of its own. Waiting for them is no business of a runtime, so that callers may have one.
#[derive(Default)]
pub(super) struct Bridge(OnceLock<Option<Runtime>>);

impl Bridge {
    /// Where requests run.
    pub(super) fn handle(&self) -> Result<Handle, Cause> {
        let runtime = self.0.get_or_init(|| {
            Builder::new_multi_thread()
                .worker_threads(THREADS)
                .thread_name("storage")
                .enable_all()
                .build()
                .ok()
        });
        let runtime = runtime.as_ref().ok_or_else(|| {
            Cause::Settings("no thread for the storage can be started on this machine".to_owned())
        })?;
        Ok(runtime.handle().clone())
    }

    /// Runs a request and waits for its end.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, Cause>> + Send + 'static,
    ) -> Result<T, Cause> {
        wait_on(&self.handle()?, request)
    }
}

/// Runs a request and waits for its end.
pub(super) fn wait_on<T: Send + 'static>(
    handle: &Handle,
    request: impl Future<Output = Result<T, Cause>> + Send + 'static,
) -> Result<T, Cause> {
    let (sender, receiver) = sync_channel(1);
    handle.spawn(async move { sender.send(request.await).ok() });
    // A task that was dropped, with its runtime or by a panic, has sent nothing.
    receiver.recv().unwrap_or(Err(Cause::Stopped))
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(Some(runtime)) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// TLS of a fast link costs more than one core has.
const THREADS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_within_a_runtime_panics() {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let answer = runtime.block_on(async {
            let bridge = Bridge::default();
            bridge.wait(async { Ok(7) })
        });
        assert_eq!(answer, Ok(7));
    }

    #[test]
    fn panic_of_a_request_is_waited_for_for_ever() {
        let bridge = Bridge::default();
        let answer: Result<(), Cause> = bridge.wait(async { panic!("on purpose") });
        assert_eq!(answer, Err(Cause::Stopped));
    }
}
