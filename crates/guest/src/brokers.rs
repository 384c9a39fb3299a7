//! The brokers that a guest attests to: its own, and those that the host of a URI chooses.
//!
//! A broker may be reached at several addresses. They are tried in order while nobody answers; what one of them says, a
//! denial above all, is the answer. Which hosts there are is configuration, so a URI cannot send a guest to a broker of
//! its writer's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use strongroom_client::{ClientError, KbsClient};
use strongroom_wire::resource::ResourceUri;

use crate::config::{Kbs, NamedBroker};
use crate::error::GuestError;

/// Where a broker is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BrokerAddress {
    /// Its URL.
    pub url: String,
    /// Where the same broker is as well, in the order in which they are tried when nobody answers.
    pub standby_urls: Vec<String>,
    /// The certificate (PEM) that alone is trusted for it; the machine's own authorities without one.
    pub root_certificate_pem: Option<String>,
}

impl BrokerAddress {
    /// A broker with one URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }

    pub(crate) fn urls(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.url).chain(&self.standby_urls)
    }
}

impl From<&Kbs> for BrokerAddress {
    fn from(kbs: &Kbs) -> Self {
        Self {
            url: kbs.url.clone(),
            standby_urls: kbs.standby_urls.clone(),
            root_certificate_pem: kbs.cert.clone(),
        }
    }
}

impl From<&NamedBroker> for BrokerAddress {
    fn from(broker: &NamedBroker) -> Self {
        Self {
            url: broker.url.clone(),
            standby_urls: broker.standby_urls.clone(),
            root_certificate_pem: broker.cert.clone(),
        }
    }
}

/// The brokers of one guest.
pub(crate) struct Brokers {
    own: Option<Broker>,
    named: BTreeMap<String, Broker>,
}

impl Brokers {
    /// Prepares a client for each address; nothing is sent yet. An address without a URL is none.
    pub(crate) fn new(
        own: &BrokerAddress,
        named: &BTreeMap<String, BrokerAddress>,
        client: impl Fn(&BrokerAddress, &str, Option<&str>) -> Result<KbsClient, ClientError>,
    ) -> Result<Self, GuestError> {
        let broker = |address: &BrokerAddress, host: Option<&str>| {
            let clients: Result<Vec<KbsClient>, ClientError> = address
                .urls()
                .map(|url| client(address, url, host))
                .collect();
            clients.map(Broker::new)
        };
        let mut brokers = BTreeMap::new();
        for (host, address) in named {
            brokers.insert(host.clone(), broker(address, Some(host))?);
        }
        let own = Some(own).filter(|own| !own.url.is_empty());
        Ok(Self {
            own: own.map(|own| broker(own, None)).transpose()?,
            named: brokers,
        })
    }

    /// The broker without a name.
    pub(crate) fn own(&self) -> Result<&Broker, ClientError> {
        self.own.as_ref().ok_or_else(|| ClientError::Rejected {
            what: "this guest's broker".to_owned(),
            status: 400,
            detail: "none is named: write it into aa.toml ([token_configs.kbs] url) and cdh.toml ([kbc] name = \"cc_kbc\", \
                     url) of the init-data"
                .to_owned(),
        })
    }

    /// The broker that a URI names.
    pub(crate) fn of(&self, uri: &ResourceUri) -> Result<&Broker, ClientError> {
        let host = uri.host();
        if host.is_empty() {
            return self.own();
        }
        let listed = self.named.get(host);
        listed
            .or_else(|| self.own.as_ref().filter(|own| own.is_at(host)))
            .ok_or_else(|| ClientError::Rejected {
                what: uri.to_string(),
                status: 400,
                detail: format!(
                    "no broker is listed under its host; listed are {}. Write kbs:///repository/type/tag for the guest's own \
                     broker, or list the host in aa.toml ([[brokers]] host, url, cert)",
                    Listed(self)
                ),
            })
    }
}

struct Listed<'a>(&'a Brokers);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.own.as_ref().map_or("none", Broker::peer))?;
        self.0
            .named
            .keys()
            .try_for_each(|host| write!(f, ", {host}"))
    }
}

/// One broker, at the addresses where it is.
pub(crate) struct Broker {
    /// Never empty: a broker has a URL.
    clients: Vec<KbsClient>,
    /// The address that answered last.
    current: AtomicUsize,
    reachability: Reachability,
}

impl Broker {
    fn new(clients: Vec<KbsClient>) -> Self {
        Self {
            clients,
            current: AtomicUsize::new(0),
            reachability: Reachability::default(),
        }
    }

    /// Asks at the address that answered last, then at the others until one answers.
    pub(crate) async fn ask<T, F>(&self, ask: impl Fn(KbsClient) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let order = (0..self.clients.len()).cycle().skip(first);
        let mut lost = Vec::new();
        for index in order.take(self.clients.len()) {
            let Some(client) = self.clients.get(index) else {
                continue;
            };
            let outcome = ask(client.clone()).await;
            match outcome.as_ref().err().filter(|error| is_lost(error)) {
                None => {
                    if self.current.swap(index, Ordering::Relaxed) != index {
                        tracing::warn!(
                            broker = client.peer(),
                            "another address of the broker is used"
                        );
                    }
                    return self.noted(outcome);
                }
                Some(error) => lost.push((client.peer(), error.clone())),
            }
        }
        self.noted(Err(all_lost(lost)))
    }

    /// Scheme, host and port that answered last.
    pub(crate) fn peer(&self) -> &str {
        let current = self.current.load(Ordering::Relaxed);
        self.clients
            .get(current)
            .or_else(|| self.clients.first())
            .map_or("", KbsClient::peer)
    }

    fn is_at(&self, host: &str) -> bool {
        self.clients.iter().any(|client| {
            let peer = client.peer().split_once("://");
            peer.is_some_and(|(_, authority)| authority == host)
        })
    }

    /// Logs when the broker ceases to answer and when it answers again, once each.
    fn noted<T>(&self, outcome: Result<T, ClientError>) -> Result<T, ClientError> {
        match self.reachability.change(outcome.as_ref().err()) {
            Some(Change::Lost(error)) => tracing::warn!(%error, "the broker is not reached"),
            Some(Change::Back) => {
                tracing::warn!(broker = self.peer(), "the broker is reached again");
            }
            None => {}
        }
        outcome
    }
}

/// What nobody answering at any address comes to.
fn all_lost(mut lost: Vec<(&str, ClientError)>) -> ClientError {
    match lost.pop() {
        Some((_, error)) if lost.is_empty() => error,
        last => {
            lost.extend(last);
            let peers: Vec<&str> = lost.iter().map(|(peer, _)| *peer).collect();
            let reasons: Vec<String> = lost.iter().map(|(_, error)| error.to_string()).collect();
            ClientError::Unreachable {
                peer: peers.join(", "),
                reason: reasons.join("; "),
            }
        }
    }
}

/// Whether no broker answered, or something that is none. A denial or a missing resource is an answer.
fn is_lost(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Unreachable { .. }
            | ClientError::UntrustedPeer { .. }
            | ClientError::Unavailable { .. }
            | ClientError::NotTheBroker { .. }
            | ClientError::TooLarge { .. }
            | ClientError::Protocol { .. }
    )
}

/// Whether the broker answered when it was last asked.
#[derive(Default)]
struct Reachability {
    lost: AtomicBool,
}

#[derive(Debug, Eq, PartialEq)]
enum Change<'a> {
    Lost(&'a ClientError),
    Back,
}

impl Reachability {
    /// What an outcome changes. A denial or a missing resource is an answer; what failed on this machine says nothing.
    fn change<'a>(&self, error: Option<&'a ClientError>) -> Option<Change<'a>> {
        let lost = match error {
            Some(error) if is_lost(error) => Some(error),
            None
            | Some(
                ClientError::NotFound { .. }
                | ClientError::Denied { .. }
                | ClientError::EvidenceRefused { .. }
                | ClientError::NotAttested { .. },
            ) => None,
            Some(_) => return None,
        };
        let before = self.lost.swap(lost.is_some(), Ordering::Relaxed);
        match lost {
            Some(error) if !before => Some(Change::Lost(error)),
            None if before => Some(Change::Back),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(peer: &str) -> ClientError {
        ClientError::Unreachable {
            peer: peer.into(),
            reason: "refused".into(),
        }
    }

    #[test]
    fn lost_broker_is_told_once_and_so_is_its_return() {
        let unreachable = unreachable("https://b");
        let denied = ClientError::Denied {
            what: "x".into(),
            detail: "no".into(),
        };
        let broker = Reachability::default();
        assert_eq!(broker.change(None), None);
        assert_eq!(
            broker.change(Some(&unreachable)),
            Some(Change::Lost(&unreachable))
        );
        assert_eq!(broker.change(Some(&unreachable)), None);
        assert_eq!(broker.change(Some(&denied)), Some(Change::Back));
        assert_eq!(broker.change(None), None);
    }

    #[test]
    fn one_address_of_several_is_hidden_when_all_are_lost() {
        let one = unreachable("https://a");
        assert_eq!(all_lost(vec![("https://a", one.clone())]), one);
        let both = all_lost(vec![
            ("https://a", one),
            ("https://b", unreachable("https://b")),
        ]);
        let text = both.to_string();
        assert!(
            text.contains("https://a") && text.contains("https://b"),
            "{text}"
        );
        assert!(both.is_transient());
    }
}
