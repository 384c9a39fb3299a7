//! What upstream's own programs said to each other, replayed: its broker's answers drive our guest.
//!
//! The scripted broker answers with upstream's recorded challenges and tokens; only the encrypted answers are made
//! anew, for the key that our guest attests.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use broker::{NOW, Scripted, ScriptedBroker};
use serde_json::Value;
use strongroom_attester::Attester;
use strongroom_client::clock::Clock;
use strongroom_guest::{Agent, AgentConfig};
use support::fixture;

const KEY: &str = "default/fraud-dataset/dataset_key";
const PLAINTEXT: &str = "0123456789abcdef0123456789abcdef";

struct Exchange {
    method: String,
    path: String,
    request: String,
    status: u16,
    response: String,
}

fn exchanges(file: &str) -> Option<Vec<Exchange>> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let log = fixture(file)?;
    let lines = log.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let (request, response) = (&line["request"], &line["response"]);
        Exchange {
            method: text(&request["method"]),
            path: text(&request["path"]),
            request: text(&request["body"]),
            status: response["status"].as_u64().unwrap().try_into().unwrap(),
            response: text(&response["body"]),
        }
    });
    Some(lines.collect())
}

/// A broker that gives the recorded challenges and tokens in their order.
fn replayed(exchanges: &[Exchange]) -> ScriptedBroker {
    let broker = ScriptedBroker::start().with_resource(KEY, PLAINTEXT.as_bytes());
    for exchange in exchanges {
        match exchange.path.as_str() {
            "/kbs/v0/auth" => {
                *broker.script.challenge.lock().unwrap() =
                    serde_json::from_str(&exchange.response).unwrap();
            }
            "/kbs/v0/attest" => {
                let answer: Value = serde_json::from_str(&exchange.response).unwrap();
                broker
                    .script
                    .tokens
                    .lock()
                    .unwrap()
                    .push_back(answer["token"].as_str().unwrap().to_owned());
            }
            _ => {}
        }
    }
    broker
}

fn agent(broker: &ScriptedBroker) -> Agent {
    let mut config = AgentConfig::new(&broker.url, Attester::named("sample").unwrap());
    config.clock = Clock::from_fn(|| NOW);
    Agent::new(config).unwrap()
}

fn shape(json: &str) -> Value {
    fn blank(value: &mut Value) {
        match value {
            Value::Object(members) => members.values_mut().for_each(blank),
            Value::String(text) if text.len() > 40 => *text = format!("{} characters", text.len()),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(json).unwrap();
    blank(&mut value);
    value
}

#[tokio::test]
async fn our_guest_asks_upstreams_broker_as_upstreams_guest_does() {
    let Some(recorded) = exchanges("recorded/guest-get-resource.jsonl") else {
        return;
    };
    let broker = replayed(&recorded);
    let secret = agent(&broker)
        .get_resource(&format!("kbs:///{KEY}").parse().unwrap())
        .await
        .unwrap();
    assert_eq!(secret.as_slice(), PLAINTEXT.as_bytes());
    let ours = broker.seen();
    assert_eq!(ours.len(), recorded.len());
    for (ours, theirs) in ours.iter().zip(&recorded) {
        assert_eq!(
            (ours.method.as_str(), ours.path.as_str()),
            (theirs.method.as_str(), theirs.path.as_str())
        );
    }
    let body = |index: usize| std::str::from_utf8(&ours[index].body).unwrap();
    // The same members with values of the same length: nonce, key and evidence have a fixed one.
    assert_eq!(shape(body(1)), shape(&recorded[1].request));
    assert_eq!(ours[1].headers["content-type"], "application/json");
}

#[tokio::test]
async fn unsealing_asks_for_the_signing_key_first_and_attests_once_where_upstream_attests_twice() {
    let (Some(recorded), Some(sealed), Some(jwk)) = (
        exchanges("recorded/guest-unseal.jsonl"),
        fixture("recorded/sealed-dataset-key.txt"),
        fixture("recorded/sealed-signing-public.jwk.json"),
    ) else {
        return;
    };
    let broker = replayed(&recorded);
    broker.put("default/sealed-signing-key/jwk_public", jwk.as_bytes());
    let secret = agent(&broker).unseal(&sealed).await.unwrap();
    assert_eq!(secret.as_slice(), PLAINTEXT.as_bytes());
    let gets = |pairs: Vec<(String, String)>| {
        pairs
            .into_iter()
            .filter(|(method, _)| method == "GET")
            .map(|(_, path)| path)
            .collect::<Vec<_>>()
    };
    let ours = gets(
        broker
            .seen()
            .into_iter()
            .map(|seen| (seen.method.to_string(), seen.path))
            .collect(),
    );
    let theirs = gets(
        recorded
            .iter()
            .map(|exchange| (exchange.method.clone(), exchange.path.clone()))
            .collect(),
    );
    assert_eq!(ours, theirs);
    assert_eq!(broker.auths(), 1);
}

#[tokio::test]
async fn upstreams_recorded_refusals_are_understood() {
    let Some(recorded) = exchanges("recorded/kbs-client.jsonl") else {
        return;
    };
    let refusal = |kind: &str| {
        let found = recorded
            .iter()
            .find(|exchange| exchange.status == 401 && exchange.response.contains(kind))
            .unwrap();
        Scripted {
            status: 401,
            content_type: "",
            body: found.response.clone(),
        }
    };
    let broker = ScriptedBroker::start();
    // Upstream's client asks without a token first, is told so, attests, and then learns that nothing is there.
    broker.on_get([refusal("TokenNotFound"), refusal("PluginInternalError")]);
    let error = agent(&broker)
        .get_resource(&"kbs:///default/none/none".parse().unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(error, strongroom_client::ClientError::NotFound { .. }),
        "{error}"
    );
    assert_eq!((broker.auths(), broker.gets()), (2, 2));
}

#[tokio::test]
async fn kata_precreated_secrets_are_opened_with_their_key() {
    let (Some(sealed), Some(jwk)) = (
        fixture("guest/sealed-secrets/kata-precreated-test.sealed"),
        fixture("guest/sealed-secrets/kata-signing-public.jwk.json"),
    ) else {
        return;
    };
    let broker = ScriptedBroker::start()
        .with_resource("default/signing-key/sealed-secret", jwk.as_bytes())
        .with_resource("default/sealed-secret/test", b"kata's secret");
    assert_eq!(
        agent(&broker).unseal(&sealed).await.unwrap().as_slice(),
        b"kata's secret"
    );
}
