//! `ttrpc-client SOCKET SERVICE METHOD [NUMBER=TEXT | NUMBER:UNSIGNED]...`: one call.
//!
//! Prints the answer's fields, one a line, as NUMBER=HEX or NUMBER:UNSIGNED; or `status CODE TEXT`, and exits with 1.

use std::process::ExitCode;

use protobuf::{CodedInputStream, CodedOutputStream};
use ttrpc::proto::Request;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, service, method, fields @ ..] = arguments.as_slice() else {
        eprintln!("usage: ttrpc-client SOCKET SERVICE METHOD [NUMBER=TEXT | NUMBER:UNSIGNED]...");
        return ExitCode::from(2);
    };
    let client = ttrpc::sync::Client::connect(&format!("unix://{socket}")).expect("a server");
    let request = Request {
        service: service.clone(),
        method: method.clone(),
        payload: message(fields),
        timeout_nano: 20_000_000_000,
        ..Request::default()
    };
    match client.request(request) {
        Ok(response) => {
            print_fields(&response.payload);
            ExitCode::SUCCESS
        }
        Err(ttrpc::Error::RpcStatus(status)) => {
            println!("status {:?} {}", status.code(), status.message);
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("broken {error}");
            ExitCode::FAILURE
        }
    }
}

fn message(fields: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = CodedOutputStream::vec(&mut bytes);
    for field in fields {
        let at = field.find(['=', ':']).expect("NUMBER=TEXT or NUMBER:UNSIGNED");
        let (number, value) = (field[..at].parse().expect("a number"), &field[at + 1..]);
        if field.as_bytes()[at] == b'=' {
            out.write_string(number, value).expect("memory");
        } else {
            out.write_uint64(number, value.parse().expect("a number"))
                .expect("memory");
        }
    }
    out.flush().expect("memory");
    drop(out);
    bytes
}

fn print_fields(payload: &[u8]) {
    let mut input = CodedInputStream::from_bytes(payload);
    while let Some(tag) = input.read_raw_tag_or_eof().expect("a message") {
        let number = tag >> 3;
        if tag & 7 == 2 {
            let value = input.read_bytes().expect("a message");
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{number}={hex}");
        } else {
            println!("{number}:{}", input.read_uint64().expect("a message"));
        }
    }
}
