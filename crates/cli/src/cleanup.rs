//! Ctrl-C and SIGTERM leave nothing half-written: what is under way is registered here, and removed on the way out.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

static REGISTERED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static CHILDREN: Mutex<Vec<rustix::process::Pid>> = Mutex::new(Vec::new());
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Starts the thread that waits for signals.
pub(crate) fn install() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The handlers must be in place before this returns, so that no early signal finds the default action.
    let mut terminate = {
        let _guard = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    let mut interrupt = {
        let _guard = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                loop {
                    let code = tokio::select! {
                        _ = interrupt.recv() => 130,
                        _ = terminate.recv() => 143,
                    };
                    if !TAKEN_OVER.load(Ordering::SeqCst) {
                        clean();
                        std::process::exit(code);
                    }
                }
            });
        })?;
    Ok(())
}

/// From here on the command itself ends on a signal, as servers do that finish what they are answering.
pub(crate) fn take_over() {
    TAKEN_OVER.store(true, Ordering::SeqCst);
}

/// Removes `path`, a file or a whole folder, when the process is told to stop.
pub(crate) fn register(path: &Path) {
    REGISTERED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(path.to_owned());
}

/// Leaves `path` alone again: it is complete, or gone.
pub(crate) fn unregister(path: &Path) {
    REGISTERED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|other| other != path);
}

/// Stops this child first when the process is told to stop.
pub(crate) fn register_child(child: rustix::process::Pid) {
    CHILDREN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(child);
}

/// The child has ended.
pub(crate) fn unregister_child(child: rustix::process::Pid) {
    CHILDREN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|other| *other != child);
}

fn clean() {
    for child in CHILDREN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain(..)
    {
        // It may have ended by itself.
        let _: rustix::io::Result<()> =
            rustix::process::kill_process(child, rustix::process::Signal::KILL);
    }
    for path in REGISTERED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain(..)
    {
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("could not remove {}: {error}", path.display());
        }
    }
}
