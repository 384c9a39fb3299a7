//! How long a storage is waited for, and how often it is asked again.

use std::time::Duration;

use super::error::Cause;

/// How long, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until an answer begins, to a request without a body worth naming.
    pub answer: Duration,
    /// Until the next bytes of a body.
    pub idle: Duration,
    /// Until one block of a few MiB has come, however often it broke off.
    pub block: Duration,
    /// Until one part has gone.
    pub part: Duration,
    /// How often one thing is tried in all.
    pub attempts: u32,
    /// Between the first two attempts, at most; doubled from then on.
    pub first_wait: Duration,
    /// Between any two attempts, at most.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            block: Duration::from_secs(180),
            part: Duration::from_secs(300),
            attempts: 6,
            first_wait: Duration::from_millis(400),
            longest_wait: Duration::from_secs(10),
        }
    }
}

/// The attempts at one thing.
pub(super) struct Attempts<'a> {
    patience: &'a Patience,
    made: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(patience: &'a Patience) -> Self {
        Self { patience, made: 0 }
    }

    /// Waits after a failure, or gives it back when there is no further attempt.
    pub(super) async fn wait_after(&mut self, cause: Cause) -> Result<(), Cause> {
        self.made += 1;
        if !cause.may_pass() || self.made >= self.patience.attempts {
            return Err(cause.after(self.made));
        }
        tokio::time::sleep(self.pause(cause.retry_after())).await;
        Ok(())
    }

    /// Any length up to a limit that doubles, so that a thousand readers do not come back at once; what the storage asks
    /// for counts, within reason.
    fn pause(&self, asked: Option<Duration>) -> Duration {
        let doubled = self
            .patience
            .first_wait
            .saturating_mul(1_u32.checked_shl(self.made - 1).unwrap_or(u32::MAX));
        let limit = doubled.min(self.patience.longest_wait);
        let mut random = [0];
        // Without randomness the waits are merely less spread.
        aws_lc_rs::rand::fill(&mut random).ok();
        let jittered = limit.mul_f64(f64::from(random[0]) / 255.0);
        match asked {
            Some(asked) => asked.min(self.patience.longest_wait) + jittered.min(asked),
            None => jittered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(retry_after: Option<Duration>) -> Cause {
        Cause::Refused {
            status: 503,
            code: None,
            retry_after,
            attempts: 0,
        }
    }

    #[test]
    fn pause_is_longer_than_its_limit() {
        let patience = Patience::default();
        for made in 1..80 {
            let attempts = Attempts {
                patience: &patience,
                made,
            };
            assert!(attempts.pause(None) <= patience.longest_wait);
            let asked = attempts.pause(Some(Duration::from_secs(3600)));
            assert!(asked <= patience.longest_wait * 2);
        }
        let attempts = Attempts {
            patience: &patience,
            made: 1,
        };
        assert!(attempts.pause(Some(Duration::from_secs(2))) >= Duration::from_secs(2));
    }

    #[test]
    fn attempts_go_on_for_ever_or_after_a_refusal() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for the test");
        let patience = Patience {
            first_wait: Duration::ZERO,
            ..Patience::default()
        };
        runtime.block_on(async {
            let mut attempts = Attempts::new(&patience);
            let mut made = 1;
            let last = loop {
                match attempts.wait_after(passing(None)).await {
                    Ok(()) => made += 1,
                    Err(cause) => break cause,
                }
            };
            assert_eq!(made, patience.attempts);
            assert_eq!(last, passing(None).after(patience.attempts));
            let refused = Attempts::new(&patience).wait_after(Cause::NotFound).await;
            assert_eq!(refused, Err(Cause::NotFound));
        });
    }
}
