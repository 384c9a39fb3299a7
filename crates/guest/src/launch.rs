//! From options, files and what was measured at launch to an agent. What was measured wins: who starts the guest must not
//! send it to a broker of their own, which could answer with another recipient, signing key or model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use strongroom_attester::Attester;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::jwe::KeyAlgorithm;

use crate::attestation::{Agent, AgentConfig};
use crate::brokers::BrokerAddress;
use crate::config::{AaConfig, CdhConfig, Kbc, KbcName, Kbs, NamedBroker, Surroundings};
use crate::data::unseal::UnsealOptions;
use crate::error::GuestError;
use crate::initdata::Launched;

/// What whoever starts the guest wants of it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The broker's URL.
    pub broker: Option<String>,
    /// Its certificate, PEM.
    pub certificate: Option<String>,
    /// The attestation agent's settings, of a file.
    pub aa: Option<AaConfig>,
    /// The data hub's settings, of a file.
    pub cdh: Option<CdhConfig>,
    /// Follows `broker` and `certificate` even where another broker was measured.
    pub insecure_override_measured_broker: bool,
    /// Allows a broker beyond this machine without TLS.
    pub insecure_http: bool,
    /// Starts where no broker is named, too: what would be asked of it is refused then.
    pub broker_is_optional: bool,
    /// What the machine says where no file does.
    pub surroundings: Surroundings,
}

/// A guest that can start.
pub struct Prepared {
    /// Its agent.
    pub agent: Agent,
    /// The attestation agent's settings in force.
    pub aa: AaConfig,
    /// The data hub's settings in force.
    pub cdh: CdhConfig,
    /// Whether `cdh` was measured at launch, so that no option may contradict it.
    pub cdh_measured: bool,
    /// What somebody should know.
    pub warnings: Vec<String>,
}

impl Wanted {
    /// Joins what is wanted and what was measured, which wins.
    ///
    /// # Errors
    /// [`GuestError::Launch`] where they contradict each other, or name no broker; as [`Agent::new`].
    pub fn prepare(
        self,
        mut attester: Attester,
        launched: Launched,
    ) -> Result<Prepared, GuestError> {
        let insecure_http = self.insecure_http;
        let bound = launched.bound.clone();
        let broker_is_optional = self.broker_is_optional;
        let joined = self.join(launched)?;
        if let Some(initdata) = &joined.initdata {
            attester = attester.with_initdata(initdata);
        }
        let mut config = AgentConfig::new("", attester);
        config.broker = match joined.broker {
            None if !broker_is_optional => return Err(no_broker()),
            broker => broker.unwrap_or_default(),
        };
        config.named_brokers = joined.named_brokers;
        config.insecure_http = insecure_http;
        config.initdata = joined.initdata;
        config.bound = Some(bound);
        config.event_log = joined.aa.eventlog_config.clone();
        config.unseal = UnsealOptions::from(&joined.cdh);
        config.key_algorithm = joined.key_algorithm;
        Ok(Prepared {
            agent: Agent::new(config)?,
            aa: joined.aa,
            cdh: joined.cdh,
            cdh_measured: joined.cdh_measured,
            warnings: joined.warnings,
        })
    }

    /// The broker that the guest would attest to.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn broker(self, launched: Launched) -> Result<BrokerAddress, GuestError> {
        self.join(launched)?.broker.ok_or_else(no_broker)
    }

    fn join(self, launched: Launched) -> Result<Joined, GuestError> {
        let mut warnings = launched.warnings;
        let measured = |name: &str| {
            let initdata = launched.initdata.as_ref();
            initdata.is_some_and(|initdata| initdata.data().contains_key(name))
        };
        let (aa_measured, cdh_measured) = (measured("aa.toml"), measured("cdh.toml"));
        let mut cdh = in_force("cdh.toml", cdh_measured.then_some(launched.cdh), self.cdh)?;
        let has_aa = aa_measured || self.aa.is_some();
        let aa = match (aa_measured, self.aa) {
            // Who overrides the measured broker may do so by a file.
            (true, Some(_)) if self.insecure_override_measured_broker => launched.aa.clone(),
            (true, wanted) => in_force("aa.toml", Some(launched.aa.clone()), wanted)?,
            (false, Some(wanted)) => wanted,
            (false, None) => self.surroundings.aa().map_err(GuestError::Launch)?,
        };
        if has_aa {
            warnings.extend(self.surroundings.passed_over_for_aa());
        }
        let completed = self.surroundings.complete(&mut cdh, cdh_measured);
        warnings.extend(completed.map_err(GuestError::Launch)?);
        let own = own_broker((&aa, aa_measured), (&cdh, cdh_measured))?;
        let of_agent = aa.token_configs.kbs.as_ref();
        let agent_names = of_agent.is_some_and(|kbs| !kbs.url.is_empty());
        let hub_names = cdh.kbc.as_ref().is_some_and(|kbc| !kbc.url.is_empty());
        let is_measured = (aa_measured && agent_names) || (cdh_measured && hub_names);
        let (measured, configured) = match is_measured {
            true => (own, None),
            false => (None, own),
        };
        let key_algorithm = measured
            .as_ref()
            .or(configured.as_ref())
            .map(Kbs::key_algorithm);
        let named = named_brokers(
            &[(&aa.brokers, aa_measured), (&cdh.brokers, cdh_measured)],
            launched.initdata.is_some(),
        )?;
        let broker = choose(
            measured,
            configured,
            (self.broker, self.certificate),
            self.insecure_override_measured_broker,
        )?;
        let is_offline = |kbc: &Kbc| kbc.name == KbcName::OfflineFsKbc;
        if cdh.kbc.as_ref().is_some_and(is_offline) {
            if broker.is_some() || !self.broker_is_optional {
                return Err(GuestError::Launch(OFFLINE.to_owned()));
            }
            warnings.push(OFFLINE.to_owned());
        }
        if aa.token_configs.coco_as.is_some() {
            warnings.push(
                "aa.toml: token_configs.coco_as.url is passed over: tokens straight from an attestation service are not \
                 made here, and token_type=coco_as is answered with 501"
                    .to_owned(),
            );
        }
        let key_algorithm = key_algorithm.transpose().map_err(GuestError::Launch)?;
        Ok(Joined {
            broker,
            named_brokers: named,
            key_algorithm: key_algorithm.unwrap_or_default(),
            initdata: launched.initdata,
            aa,
            cdh,
            cdh_measured,
            warnings,
        })
    }
}

/// What is in force.
struct Joined {
    broker: Option<BrokerAddress>,
    named_brokers: BTreeMap<String, BrokerAddress>,
    key_algorithm: KeyAlgorithm,
    initdata: Option<Initdata>,
    aa: AaConfig,
    cdh: CdhConfig,
    cdh_measured: bool,
    warnings: Vec<String>,
}

/// What was measured, or what a file says.
fn in_force<T: Default + PartialEq>(
    name: &str,
    measured: Option<T>,
    wanted: Option<T>,
) -> Result<T, GuestError> {
    match (measured, wanted) {
        (Some(measured), Some(wanted)) if measured != wanted => Err(GuestError::Launch(format!(
            "the {name} that is named differs from the one in the measured init-data, which is in force: leave it out"
        ))),
        (Some(config), _) | (None, Some(config)) => Ok(config),
        (None, None) => Ok(T::default()),
    }
}

/// Both files name the guest's broker, and must name one. A certificate of a file is not believed for a measured URL.
fn own_broker(
    (aa, aa_measured): (&AaConfig, bool),
    (cdh, cdh_measured): (&CdhConfig, bool),
) -> Result<Option<Kbs>, GuestError> {
    let of_hub = cdh
        .kbc
        .as_ref()
        .filter(|kbc| kbc.name == KbcName::CcKbc && !kbc.url.is_empty());
    let of_agent = aa.token_configs.kbs.as_ref();
    let Some(hub) = of_hub else {
        return Ok(of_agent.cloned());
    };
    let agent = of_agent
        .cloned()
        .unwrap_or_else(|| Kbs::new(String::new(), None));
    let bare = |url: &str| url.trim_end_matches('/').to_owned();
    let other_url = !agent.url.is_empty() && bare(&agent.url) != bare(&hub.url);
    let both = agent.cert.as_ref().zip(hub.kbs_cert.as_ref());
    if other_url || both.is_some_and(|(one, other)| one != other) {
        return Err(GuestError::Launch(format!(
            "aa.toml and cdh.toml name different brokers or certificates ({}, {}): there is one guest here, so write the \
             same into both, and further brokers into [[brokers]]",
            agent.url, hub.url
        )));
    }
    let cert = match (aa_measured, cdh_measured) {
        (true, false) if !agent.url.is_empty() => agent.cert.clone(),
        (false, true) => hub.kbs_cert.clone(),
        _ => agent.cert.clone().or_else(|| hub.kbs_cert.clone()),
    };
    let standby_urls = match (aa_measured, cdh_measured) {
        (false, true) => Vec::new(),
        _ => agent.standby_urls,
    };
    Ok(Some(Kbs {
        url: hub.url.clone(),
        cert,
        tee_key_algorithm: agent.tee_key_algorithm,
        standby_urls,
    }))
}

/// The brokers of both files, by host. Where there is init-data, those alone that are in it.
fn named_brokers(
    lists: &[(&Vec<NamedBroker>, bool)],
    has_initdata: bool,
) -> Result<BTreeMap<String, BrokerAddress>, GuestError> {
    let mut named = BTreeMap::new();
    for (brokers, is_measured) in lists {
        for broker in *brokers {
            if has_initdata && !is_measured {
                return Err(GuestError::Launch(format!(
                    "the broker of {} is listed in a file, and this machine was launched with init-data: list it there, \
                     where it is measured",
                    broker.host
                )));
            }
            let address = BrokerAddress::from(broker);
            let before = named.insert(broker.host.clone(), address.clone());
            if before.is_some_and(|before| before != address) {
                return Err(GuestError::Launch(format!(
                    "aa.toml and cdh.toml list different brokers under the host {}",
                    broker.host
                )));
            }
        }
    }
    Ok(named)
}

/// The broker to attest to, if one is named: URL and certificate of options, a file's, or the measured one, which wins.
fn choose(
    measured: Option<Kbs>,
    configured: Option<Kbs>,
    (broker, certificate): (Option<String>, Option<String>),
    insecure_override: bool,
) -> Result<Option<BrokerAddress>, GuestError> {
    let refused = |text: String| Err(GuestError::Launch(text));
    let address = |kbs: &Kbs| Some(BrokerAddress::from(kbs)).filter(|kbs| !kbs.url.is_empty());
    let known = measured
        .as_ref()
        .or(configured.as_ref())
        .and_then(|kbs| kbs.cert.clone());
    if let Some(address) = measured
        .as_ref()
        .and_then(address)
        .filter(|_| !insecure_override || broker.is_none())
    {
        if broker.is_some_and(|broker| broker != address.url) {
            return refused(format!(
                "--broker (or STRONGROOM_BROKER) names another broker than the measured init-data, which names {}: leave it \
                 out",
                address.url
            ));
        }
        let differs = |given: &str| Some(given.trim()) != address.root_certificate_pem.as_deref();
        if certificate.as_deref().is_some_and(differs) {
            return refused(
                "--broker-cert (or STRONGROOM_BROKER_CERT) is not the certificate of the measured init-data: leave it out"
                    .to_owned(),
            );
        }
        return Ok(Some(address));
    }
    let mut address = match (broker, configured.as_ref().and_then(address)) {
        (Some(url), Some(file)) if url == file.url => file,
        (Some(url), _) => BrokerAddress::new(url),
        (None, Some(file)) => file,
        (None, None) => return Ok(None),
    };
    address.root_certificate_pem = certificate.or(address.root_certificate_pem).or(known);
    Ok(Some(address))
}

fn no_broker() -> GuestError {
    GuestError::Launch(
        "no broker is named: use --broker URL, or --initdata with a document that names one (strongroom initdata new)"
            .to_owned(),
    )
}

/// The file of a socket in upstream's configuration: `unix:///path`.
///
/// # Errors
/// [`GuestError::Launch`] when it is of another kind.
pub fn socket_path(key: &str, address: &str) -> Result<PathBuf, GuestError> {
    address
        .strip_prefix("unix://")
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .ok_or_else(|| {
            GuestError::Launch(format!(
                "{key} is {:?}; this guest serves sockets: unix:///path",
                address.chars().take(64).collect::<String>()
            ))
        })
}

const OFFLINE: &str = "cdh.toml: kbc.name is offline_fs_kbc: a guest takes no resources from files of its image, which prove \
                       nothing and are the same for everybody; write kbc.name = \"cc_kbc\" and the broker's kbc.url";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use strongroom_wire::image::registries::Registries;
    use strongroom_wire::openpgp::Sha1;

    use super::*;
    use crate::config::Document as _;
    use crate::image::{Devices, Document, PullOptions};

    fn measured() -> Option<Kbs> {
        Some(Kbs::new("https://good:1".to_owned(), some("good")))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn chosen(
        broker: Option<&str>,
        certificate: Option<&str>,
        insecure: bool,
    ) -> Result<BrokerAddress, GuestError> {
        let options = (broker.map(str::to_owned), certificate.map(str::to_owned));
        choose(measured(), None, options, insecure).map(Option::unwrap)
    }

    #[test]
    fn host_redirects_the_guest_to_another_broker() {
        let error = chosen(Some("https://evil:1"), None, false).unwrap_err();
        assert!(error.to_string().contains("https://good:1"));
        assert!(chosen(None, Some("evil"), false).is_err());
        assert!(chosen(Some("https://good:1"), Some("evil"), false).is_err());
    }

    #[test]
    fn measured_broker_is_used_and_an_equal_option_changes_nothing() {
        let address = chosen(Some("https://good:1"), Some("good"), false).unwrap();
        assert_eq!(address, chosen(None, None, false).unwrap());
        assert_eq!(
            (
                address.url.as_str(),
                address.root_certificate_pem.as_deref()
            ),
            ("https://good:1", Some("good"))
        );
    }

    #[test]
    fn named_override_is_followed() {
        let address = chosen(Some("https://other:1"), Some("other"), true).unwrap();
        assert_eq!(
            (
                address.url.as_str(),
                address.root_certificate_pem.as_deref()
            ),
            ("https://other:1", Some("other"))
        );
    }

    #[test]
    fn options_count_where_nothing_is_measured() {
        let address = choose(None, measured(), (some("https://b:1"), some("c")), false);
        let address = address.unwrap().unwrap();
        assert_eq!(address.url, "https://b:1");
        assert_eq!(address.root_certificate_pem.as_deref(), Some("c"));
        assert_eq!(choose(None, None, (None, None), false), Ok(None));
    }

    #[test]
    fn unmeasured_list_of_brokers_is_followed_beside_init_data() {
        let text = "[[brokers]]\nhost = 'models'\nurl = 'https://evil'\n";
        let list = AaConfig::parse(text).unwrap().config.brokers;
        let error = named_brokers(&[(&list, false)], true).unwrap_err();
        assert!(
            error.to_string().contains("where it is measured"),
            "{error}"
        );
        assert_eq!(named_brokers(&[(&list, true)], true).unwrap().len(), 1);
        assert_eq!(named_brokers(&[(&list, false)], false).unwrap().len(), 1);
    }

    #[test]
    fn files_that_name_two_brokers_are_taken() {
        let aa = |url: &str| {
            AaConfig::parse(&format!("[token_configs.kbs]\nurl = '{url}'\n"))
                .unwrap()
                .config
        };
        let cdh =
            CdhConfig::parse("[kbc]\nname = 'cc_kbc'\nurl = 'https://b:1/'\nkbs_cert = 'c'\n")
                .unwrap()
                .config;
        let own = |url: &str, measured| own_broker((&aa(url), false), (&cdh, measured));
        assert!(own("https://a:1", false).is_err());
        assert!(own("https://b:1", false).is_ok());
        let of_hub = own("", true).unwrap().unwrap();
        assert_eq!(
            (of_hub.url.as_str(), of_hub.cert.as_deref()),
            ("https://b:1/", Some("c"))
        );
    }

    #[test]
    fn certificate_of_a_file_is_believed_for_a_measured_broker() {
        let aa = AaConfig::parse("[token_configs.kbs]\nurl = 'https://b:1'\ncert = 'evil'\n")
            .unwrap()
            .config;
        let cdh = CdhConfig::parse("[kbc]\nname = 'cc_kbc'\nurl = 'https://b:1'\n")
            .unwrap()
            .config;
        let own = own_broker((&aa, false), (&cdh, true)).unwrap().unwrap();
        assert_eq!(own.cert, None);
        let own = own_broker((&aa, false), (&cdh, false)).unwrap().unwrap();
        assert_eq!(own.cert.as_deref(), Some("evil"));
    }

    #[test]
    fn file_that_differs_from_what_was_measured_is_in_force() {
        assert_eq!(in_force("x", Some(1), Some(1)).unwrap(), 1);
        assert!(in_force("x", Some(1), Some(2)).is_err());
        assert_eq!(in_force("x", None, Some(2)).unwrap(), 2);
    }

    #[test]
    fn socket_of_another_kind_is_served() {
        assert_eq!(
            socket_path("socket", "unix:///run/cdh.sock").unwrap(),
            PathBuf::from("/run/cdh.sock")
        );
        for bad in ["127.0.0.1:50000", "unix://relative", "vsock://2:1", ""] {
            assert!(socket_path("socket", bad).is_err(), "{bad}");
        }
    }

    /// What a configuration comes to, all of it that anything follows, and what is said about it.
    fn effects(aa: &str, cdh: &str) -> String {
        let wanted = Wanted {
            aa: Some(AaConfig::parse(aa).unwrap().config),
            cdh: Some(CdhConfig::parse(cdh).unwrap().config),
            broker_is_optional: true,
            ..Wanted::default()
        };
        let joined = wanted.join(Launched::insecure_unverified(None).unwrap());
        let Ok(Joined {
            broker,
            named_brokers,
            key_algorithm,
            aa,
            cdh,
            warnings,
            ..
        }) = joined
        else {
            return "refused".to_owned();
        };
        let pull = PullOptions::from_config(&cdh.image).unwrap();
        let registries = pull.registries.as_ref().map(|registries| match registries {
            Document::Text(text) => {
                let text = std::str::from_utf8(text).unwrap();
                let read = Registries::parse(text).unwrap();
                format!("{read:?} {:?}", read.ignored())
            }
            Document::Resource(uri) => uri.to_string(),
        });
        let told = (
            broker,
            named_brokers,
            key_algorithm,
            aa.eventlog_config,
            aa.log,
            warnings,
        );
        let hub = (
            UnsealOptions::from(&cdh),
            cdh.credentials,
            cdh.log,
            cdh.socket,
            cdh.aa,
        );
        let text = |document: &Option<Document>| match document {
            Some(Document::Text(text)) => String::from_utf8(text.to_vec()).unwrap(),
            other => format!("{other:?}"),
        };
        let images = (
            text(&pull.policy),
            text(&pull.sigstore_config),
            text(&pull.credentials),
            registries,
            pull.extra_roots,
            pull.proxies,
            pull.cache,
            pull.concurrency,
            pull.devices == Devices::Allow,
            pull.sha1 == Sha1::InsecureAccept,
        );
        format!("{told:?} {hub:?} {images:?}")
    }

    /// Each key, what must stand before it, and it itself.
    const AA: &[(&str, &str, &str)] = &[
        (
            "token_configs.kbs.url",
            "[token_configs.kbs]\n",
            "url = 'https://b'",
        ),
        (
            "token_configs.kbs.cert",
            "[token_configs.kbs]\nurl = 'https://b'\n",
            "cert = 'x'",
        ),
        (
            "token_configs.kbs.tee_key_algorithm",
            "[token_configs.kbs]\nurl = 'https://b'\n",
            "tee_key_algorithm = 'RSA-OAEP-256'",
        ),
        (
            "token_configs.kbs.standby_urls",
            "[token_configs.kbs]\nurl = 'https://b'\n",
            "standby_urls = ['https://c']",
        ),
        (
            "token_configs.coco_as.url",
            "",
            "[token_configs.coco_as]\nurl = 'http://as'",
        ),
        (
            "brokers.*.host",
            "",
            "[[brokers]]\nurl = 'https://m'\nhost = 'm'",
        ),
        (
            "brokers.*.url",
            "",
            "[[brokers]]\nhost = 'm'\nurl = 'https://m'",
        ),
        (
            "brokers.*.cert",
            "[[brokers]]\nhost = 'm'\nurl = 'https://m'\n",
            "cert = 'x'",
        ),
        (
            "brokers.*.standby_urls",
            "[[brokers]]\nhost = 'm'\nurl = 'https://m'\n",
            "standby_urls = ['https://c']",
        ),
        (
            "eventlog_config.init_pcr",
            "[eventlog_config]\n",
            "init_pcr = 23",
        ),
        (
            "eventlog_config.enable_eventlog",
            "[eventlog_config]\n",
            "enable_eventlog = true",
        ),
        ("log.level", "[log]\n", "level = 'debug'"),
    ];
    const REGISTRY: &str = "[[image.registry_config.registry]]\nlocation = 'a.example/b'\n";
    const MIRROR: &str = "[[image.registry_config.registry]]\nlocation = 'a.example/b'\n[[image.registry_config.registry.mirror]]\nlocation = 'm.example/b'\n";
    const CDH: &[(&str, &str, &str)] = &[
        ("socket", "", "socket = 'unix:///run/x'"),
        (
            "skip_sealed_secret_verification",
            "",
            "skip_sealed_secret_verification = true",
        ),
        ("log.level", "[log]\n", "level = 'debug'"),
        ("aa.aa_socket", "[aa]\n", "aa_socket = 'unix:///run/x'"),
        ("kbc.name", "", "[kbc]\nname = 'offline_fs_kbc'"),
        ("kbc.url", "[kbc]\nname = 'cc_kbc'\n", "url = 'https://b'"),
        (
            "kbc.kbs_cert",
            "[kbc]\nname = 'cc_kbc'\nurl = 'https://b'\n",
            "kbs_cert = 'x'",
        ),
        (
            "brokers.*.host",
            "",
            "[[brokers]]\nurl = 'https://m'\nhost = 'm'",
        ),
        (
            "brokers.*.url",
            "",
            "[[brokers]]\nhost = 'm'\nurl = 'https://m'",
        ),
        (
            "brokers.*.cert",
            "[[brokers]]\nhost = 'm'\nurl = 'https://m'\n",
            "cert = 'x'",
        ),
        (
            "brokers.*.standby_urls",
            "[[brokers]]\nhost = 'm'\nurl = 'https://m'\n",
            "standby_urls = ['https://c']",
        ),
        (
            "credentials.*.path",
            "",
            "[[credentials]]\nresource_uri = 'kbs:///a/b/c'\npath = '/run/confidential-containers/cdh/kbs/x'",
        ),
        (
            "credentials.*.resource_uri",
            "",
            "[[credentials]]\npath = '/run/confidential-containers/cdh/kbs/x'\nresource_uri = 'kbs:///a/b/c'",
        ),
        ("image.work_dir", "[image]\n", "work_dir = '/run/x'"),
        (
            "image.max_concurrent_layer_downloads_per_image",
            "[image]\n",
            "max_concurrent_layer_downloads_per_image = 7",
        ),
        (
            "image.image_security_policy_uri",
            "[image]\n",
            "image_security_policy_uri = 'kbs:///a/b/c'",
        ),
        (
            "image.image_security_policy",
            "[image]\n",
            "image_security_policy = 'x'",
        ),
        (
            "image.sigstore_config_uri",
            "[image]\n",
            "sigstore_config_uri = 'kbs:///a/b/c'",
        ),
        (
            "image.sigstore_config",
            "[image]\n",
            "sigstore_config = 'x'",
        ),
        (
            "image.authenticated_registry_credentials_uri",
            "[image]\n",
            "authenticated_registry_credentials_uri = 'kbs:///a/b/c'",
        ),
        (
            "image.registry_configuration_uri",
            "[image]\n",
            "registry_configuration_uri = 'kbs:///a/b/c'",
        ),
        (
            "image.registry_config.unqualified-search-registries",
            "[image.registry_config]\n",
            "unqualified-search-registries = ['x']",
        ),
        (
            "image.registry_config.short-name-mode",
            "[image.registry_config]\n",
            "short-name-mode = 'x'",
        ),
        (
            "image.registry_config.aliases.**",
            "[image.registry_config]\n",
            "aliases = { x = 'y' }",
        ),
        (
            "image.registry_config.registry.*.prefix",
            REGISTRY,
            "prefix = 'p.example/b'",
        ),
        (
            "image.registry_config.registry.*.location",
            "[[image.registry_config.registry]]\nprefix = 'p.example/b'\n",
            "location = 'a.example/c'",
        ),
        (
            "image.registry_config.registry.*.blocked",
            REGISTRY,
            "blocked = true",
        ),
        (
            "image.registry_config.registry.*.insecure",
            REGISTRY,
            "insecure = true",
        ),
        (
            "image.registry_config.registry.*.mirror-by-digest-only",
            REGISTRY,
            "mirror-by-digest-only = true",
        ),
        (
            "image.registry_config.registry.*.mirror.*.location",
            REGISTRY,
            "[[image.registry_config.registry.mirror]]\nlocation = 'm.example/b'",
        ),
        (
            "image.registry_config.registry.*.mirror.*.insecure",
            MIRROR,
            "insecure = true",
        ),
        (
            "image.registry_config.registry.*.mirror.*.pull-from-mirror",
            MIRROR,
            "pull-from-mirror = 'all'",
        ),
        (
            "image.extra_root_certificates",
            "[image]\n",
            "extra_root_certificates = ['x']",
        ),
        (
            "image.image_pull_proxy.https_proxy",
            "[image.image_pull_proxy]\n",
            "https_proxy = 'x'",
        ),
        (
            "image.image_pull_proxy.http_proxy",
            "[image.image_pull_proxy]\n",
            "http_proxy = 'x'",
        ),
        (
            "image.image_pull_proxy.no_proxy",
            "[image.image_pull_proxy]\n",
            "no_proxy = 'x'",
        ),
        (
            "image.insecure_sha1_signatures",
            "[image]\n",
            "insecure_sha1_signatures = true",
        ),
        ("image.allow_devices", "[image]\n", "allow_devices = true"),
    ];

    #[test]
    fn key_is_taken_and_nothing_comes_of_it() {
        let names = |table: &[(&'static str, &str, &str)]| -> BTreeSet<&'static str> {
            table.iter().map(|(key, _, _)| *key).collect()
        };
        let known = |keys: &[&'static str]| keys.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(names(AA), known(AaConfig::KEYS));
        assert_eq!(names(CDH), known(CdhConfig::KEYS));
        // A table whose required key is the one in question is not written without it.
        let whole = |before: &str| match before {
            "[token_configs.kbs]\n" => String::new(),
            before => before.to_owned(),
        };
        for (key, before, line) in AA {
            let with = effects(&format!("{before}{line}\n"), "");
            assert_ne!(effects(&whole(before), ""), with, "aa.toml: {key}");
        }
        for (key, before, line) in CDH {
            let without = match *key {
                "image.registry_config.registry.*.location" => {
                    (*before).to_owned() + "location = 'a.example/b'\n"
                }
                _ => (*before).to_owned(),
            };
            let with = effects("", &format!("{before}{line}\n"));
            assert_ne!(effects("", &without), with, "cdh.toml: {key}");
        }
    }

    #[test]
    fn offline_configuration_of_upstreams_asks_a_broker_all_the_same() {
        let path = "guest/guest-components/confidential-data-hub/hub/tests/cdh.toml";
        let Some(path) = strongroom_testkit::fixtures::fixture(path) else {
            return;
        };
        let join = |broker: Option<&str>, broker_is_optional| {
            let wanted = Wanted {
                cdh: Some(CdhConfig::load(&path).unwrap().config),
                broker: broker.map(str::to_owned),
                broker_is_optional,
                ..Wanted::default()
            };
            wanted.join(Launched::insecure_unverified(None).unwrap())
        };
        for (broker, optional) in [
            (None, false),
            (Some("https://b"), false),
            (Some("https://b"), true),
        ] {
            let error = join(broker, optional).map(drop).unwrap_err().to_string();
            assert!(error.contains("kbc.name is offline_fs_kbc"), "{error}");
        }
        // As upstream's starts in images that need no broker; whatever is asked for is refused.
        let joined = join(None, true).unwrap();
        assert_eq!(joined.broker, None);
        assert!(joined.warnings.iter().any(|said| said.contains("kbc.name")));
    }
}
