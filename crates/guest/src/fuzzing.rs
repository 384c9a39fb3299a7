//! One entry point per decoder of untrusted bytes, for fuzz targets. None may panic, whatever the bytes.

use serde_json::json;

use crate::agent_policy::AgentPolicy;
use crate::image::fuzzing;
use crate::serve::ttrpc::frame::{Call, Header};

/// The tar file of an image's layer, unpacked into a folder.
///
/// # Panics
/// When something of it lands outside the folder.
pub fn layer(data: &[u8]) {
    fuzzing::layer(data);
}

/// What a registry's challenge asks for.
pub fn challenge(data: &[u8]) {
    fuzzing::challenge(data);
}

/// A ttRPC frame, the call in it, and what its request may hold.
pub fn ttrpc(data: &[u8]) {
    let Some((head, body)) = data.split_first_chunk() else {
        return;
    };
    let header = Header::parse(*head);
    let end = usize::try_from(header.length).unwrap_or(usize::MAX);
    let body = body.get(..end).unwrap_or(body);
    if let Ok(call) = Call::parse(body) {
        let request = &call.request;
        for number in 1..=4 {
            request.number(number).ok();
            request.text(number).ok();
            request.texts(number).ok();
            request.map(number).ok();
        }
    }
}

/// The policy for Kata's agent that comes with a launch, and its answer to a request.
///
/// # Panics
/// When it allows a request that it has no word for.
pub fn agent_policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(mut policy) = AgentPolicy::load(text) else {
        return;
    };
    let input = json!({ "container_id": "c", "process": { "Args": ["uname", "-r"] } });
    for request in [
        "CreateContainerRequest",
        "ExecProcessRequest",
        "RemoveContainerRequest",
    ] {
        let allowed = policy
            .ask(request, &input)
            .is_ok_and(|verdict| verdict.allowed);
        let said = text.contains(request) || policy.allows_failing();
        assert!(said || !allowed, "{request} is allowed by nothing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_take_anything() {
        let samples: [&[u8]; 5] = [
            b"",
            b"\xff",
            &[0; 1024],
            b"Bearer realm=\"x\",=,",
            &[b'7'; 600],
        ];
        for sample in samples {
            layer(sample);
            challenge(sample);
            ttrpc(sample);
            agent_policy(sample);
        }
    }
}
