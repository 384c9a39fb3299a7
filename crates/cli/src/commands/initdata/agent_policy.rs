//! The policy for Kata's agent that `initdata new` writes from the owner's answers, and the requests by which `initdata
//! check` finds one that is open.
//!
//! The rules are `agent_policy.rego`; what they compare with is `policy_data`, made here. Requests have the shape in
//! which Kata's agent hands them to its policy: the messages of its protocol as JSON.

use anyhow::bail;
use serde_json::{Value, json};

use super::new::arguments;

/// What the host may have of the guest.
#[derive(Default)]
pub(super) struct Host {
    /// Commands of containers.
    pub(super) containers: Vec<String>,
    /// Variables: `NAME`, or `NAME=VALUE`.
    pub(super) variables: Vec<String>,
    /// Where volumes may be mounted.
    pub(super) mounts: Vec<String>,
    /// Working directories besides `/`.
    pub(super) workdirs: Vec<String>,
    /// `UID:GID` besides `0:0`.
    pub(super) users: Vec<String>,
    /// Whether any container may start.
    pub(super) insecure_any_container: bool,
    /// Commands of `kubectl exec`.
    pub(super) exec: Vec<String>,
    /// Whether it may read what containers print.
    pub(super) logs: bool,
}

/// Writes the policy: what a container's life needs, and beside it what was answered.
pub(super) fn write(host: &Host) -> anyhow::Result<String> {
    let mut containers = vec![json!({ "args": ["/pause"], "users": [[0, 0], [65535, 65535]] })];
    let users = users(&host.users)?;
    for command in &host.containers {
        containers.push(json!({ "args": arguments(command)?, "users": users }));
    }
    let exec: Vec<Vec<String>> = host
        .exec
        .iter()
        .map(|command| arguments(command))
        .collect::<Result<_, _>>()?;
    let (mut exact, mut names) = (owned(&VARIABLES), Vec::new());
    for variable in &host.variables {
        let name = variable.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            bail!("--allow-env {variable:?} names no variable: write NAME or NAME=VALUE");
        }
        match variable.contains('=') {
            true => exact.push(variable.clone()),
            false => names.push(variable.clone()),
        }
    }
    for path in host.mounts.iter().chain(&host.workdirs) {
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            bail!(
                "the path {path:?} is not absolute, or holds ..: write it as it is in the container"
            );
        }
    }
    let mut destinations = owned(&DESTINATIONS);
    destinations.extend(host.mounts.iter().cloned());
    let mut workdirs = vec!["/".to_owned()];
    workdirs.extend(host.workdirs.iter().cloned());
    let mounts: Vec<Value> = MOUNTS
        .iter()
        .map(|(destination, source, kind)| json!({ "destination": destination, "source": source, "type": kind }))
        .collect();
    let data = json!({
        "containers": containers, "allowed_commands": exec, "users": users, "workdirs": workdirs,
        "variables": exact, "variable_names": names, "variable_patterns": VARIABLE_PATTERNS,
        "mounts": mounts, "destinations": destinations, "sources": SOURCES,
        "root": ROOT, "copied": COPIED, "local": LOCAL, "ephemeral": EPHEMERAL,
        "annotation_prefixes": ANNOTATION_PREFIXES, "capabilities": CAPABILITIES, "settings": SETTINGS,
    });
    let rules = match host.insecure_any_container {
        true => RULES.replacen(CREATE_REFUSED, CREATE_ALLOWED, 1),
        false => RULES.to_owned(),
    };
    Ok(format!(
        "{rules}# What containers print: kubectl logs, and the output of kubectl exec.\ndefault ReadStreamRequest := {}\n\npolicy_data := {}\n",
        host.logs,
        serde_json::to_string_pretty(&data)?
    ))
}

fn users(named: &[String]) -> anyhow::Result<Vec<[u32; 2]>> {
    let mut users = vec![[0, 0]];
    for user in named {
        let ids = user
            .split_once(':')
            .and_then(|(uid, gid)| Some([uid.parse().ok()?, gid.parse().ok()?]));
        let Some(ids) = ids else {
            bail!("--allow-user {user:?} is no user: write UID:GID in numbers, such as 1000:1000");
        };
        users.push(ids);
    }
    Ok(users)
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// What a hostile host asks: the request, its message, and that in words.
pub(super) fn hostile() -> Vec<(&'static str, Value, &'static str)> {
    let process = json!({
        "Terminal": false, "User": { "UID": 0, "GID": 0, "AdditionalGids": [], "Username": "" },
        "Args": ["sh", "-c", "a command that nobody named"],
        "Env": ["LD_PRELOAD=/run/kata-containers/shared/containers/evil.so"], "Cwd": "/",
        "Capabilities": null, "NoNewPrivileges": false, "ApparmorProfile": "", "SelinuxLabel": "",
    });
    let sandbox = json!({
        "hostname": "pod", "dns": [], "storages": [], "sandbox_pidns": false, "sandbox_id": ID,
        "guest_hook_path": "/run/kata-containers/shared/containers/hooks", "kernel_modules": [],
    });
    let mut link = copied("/run/kata-containers/shared/containers/link");
    link["symlink_src"] = json!("/usr/local/bin/strongroom-guest");
    vec![
        (
            "CreateContainerRequest",
            container(process.clone()),
            "any command and environment",
        ),
        (
            "ExecProcessRequest",
            json!({ "container_id": ID, "exec_id": ID, "string_user": null, "process": process }),
            "any command and environment",
        ),
        (
            "CopyFileRequest",
            copied("/usr/local/bin/strongroom-guest"),
            "a path outside the folder for shared files",
        ),
        (
            "CopyFileRequest",
            copied(&format!(
                "/run/kata-containers/shared/containers/{ID}-0123456789abcdef-x/../../../../../usr/local/bin/strongroom-guest"
            )),
            "a path that leads out by ..",
        ),
        (
            "CopyFileRequest",
            link,
            "a link that leads out of the folder for shared files",
        ),
        (
            "AddSwapRequest",
            json!({ "PCIPath": [1, 2] }),
            "any of the host's disks, to which the guest's memory is written",
        ),
        (
            "UpdateEphemeralMountsRequest",
            json!({ "storages": [] }),
            "any mount",
        ),
        (
            "CreateSandboxRequest",
            sandbox,
            "hooks of the host's own (guest_hook_path)",
        ),
        (
            "SetPolicyRequest",
            json!({ "policy": "package agent_policy" }),
            "any policy in its place",
        ),
    ]
}

/// A container as Kata's runtime asks for it, with its pod's usual mounts.
fn container(process: Value) -> Value {
    json!({
        "container_id": ID, "exec_id": ID, "string_user": null, "devices": [], "shared_mounts": [],
        "sandbox_pidns": false, "stdin_port": null, "stdout_port": null, "stderr_port": null,
        "storages": [{
            "driver": "image_guest_pull", "driver_options": ["image_guest_pull={\"metadata\":{}}"], "source": "registry.example/app:1",
            "fstype": "overlay", "options": [], "mount_point": format!("/run/kata-containers/{ID}/rootfs"), "fs_group": null,
        }],
        "OCI": {
            "Version": "1.1.0", "Process": process, "Hostname": "", "Hooks": null, "Solaris": null, "Windows": null,
            "Root": { "Path": format!("/run/kata-containers/{ID}/rootfs"), "Readonly": false },
            "Mounts": [
                { "destination": "/proc", "source": "proc", "type_": "proc", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev/shm", "source": "/run/kata-containers/sandbox/shm", "type_": "bind", "options": ["rbind"] },
                { "destination": "/etc/hosts", "type_": "bind", "options": ["rbind", "rprivate", "rw"],
                  "source": format!("/run/kata-containers/shared/containers/{ID}-0123456789abcdef-hosts") },
            ],
            "Annotations": {
                "io.katacontainers.pkg.oci.bundle_path": format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}"),
                "io.katacontainers.pkg.oci.container_type": "pod_container",
                "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": ID,
                "io.kubernetes.cri.sandbox-name": "pod", "io.kubernetes.cri.sandbox-namespace": "default",
            },
            "Linux": {
                "UIDMappings": [], "GIDMappings": [], "Sysctl": {}, "CgroupsPath": "kubepods", "Devices": [], "Seccomp": null,
                "RootfsPropagation": "", "MountLabel": "", "IntelRdt": null,
                "Resources": { "Devices": [], "Memory": null, "CPU": null, "Pids": null, "BlockIO": null, "Network": null },
                "Namespaces": [{ "Type": "ipc", "Path": "" }, { "Type": "uts", "Path": "" }, { "Type": "mount", "Path": "" }],
                "MaskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
                "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        },
    })
}

fn copied(path: &str) -> Value {
    json!({ "path": path, "file_size": 1, "file_mode": 0o100_644, "dir_mode": 0o750, "uid": 0, "gid": 0, "offset": 0, "symlink_src": "" })
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const RULES: &str = include_str!("agent_policy.rego");
const CREATE_REFUSED: &str = "default CreateContainerRequest := false";
const CREATE_ALLOWED: &str = "default CreateContainerRequest := true";
/// Where the guest unpacks an image itself; a root file system among the shared files would be the host's.
const ROOT: &str = "^/run/kata-containers/[a-z0-9]{64}/rootfs$";
const COPIED: &str = "^/run/kata-containers/shared/containers/(passthrough/)?(watchable/)?[a-z0-9]{64}-[a-z0-9]{16}-[^/]+(/|$)";
const LOCAL: &str = "^/run/kata-containers/(shared/containers/(passthrough/)?|sandbox/)?[a-z0-9]{64}/rootfs/local/[^/]+$";
const EPHEMERAL: &str =
    "^/run/kata-containers/sandbox/(shm|ephemeral/[^/]+|storage/[A-Za-z0-9_=-]+)$";
const SOURCES: [&str; 3] = [COPIED, LOCAL, EPHEMERAL];
const VARIABLES: [&str; 3] = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
    "TERM=xterm",
];
/// Which the kubelet gives to every container: its name, and the services of its name space.
const VARIABLE_PATTERNS: [&str; 5] = [
    "^HOSTNAME=[A-Za-z0-9_.-]+$",
    "^[A-Z][A-Z0-9_]*_SERVICE_HOST=[0-9A-Fa-f.:]+$",
    "^[A-Z][A-Z0-9_]*_SERVICE_PORT(_[A-Za-z0-9_.-]+)?=[0-9]{1,5}$",
    "^[A-Z][A-Z0-9_]*_PORT(_[0-9]{1,5}_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://[0-9A-Fa-f.:\\[\\]]+$",
    "^[A-Z][A-Z0-9_]*_PORT_[0-9]{1,5}_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=[A-Za-z0-9.:]+$",
];
const DESTINATIONS: [&str; 5] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/termination-log",
    "/var/run/secrets/kubernetes.io/serviceaccount",
];
const MOUNTS: [(&str, &str, &str); 8] = [
    ("/proc", "proc", "proc"),
    ("/dev", "tmpfs", "tmpfs"),
    ("/dev/pts", "devpts", "devpts"),
    ("/dev/shm", "/run/kata-containers/sandbox/shm", "bind"),
    ("/dev/shm", "shm", "tmpfs"),
    ("/dev/mqueue", "mqueue", "mqueue"),
    ("/sys", "sysfs", "sysfs"),
    ("/sys/fs/cgroup", "cgroup", "cgroup"),
];
const ANNOTATION_PREFIXES: [&str; 4] = [
    "io.kubernetes.",
    "io.katacontainers.pkg.oci.",
    "io.container.manager",
    "nerdctl/",
];
/// What containerd and CRI-O give to a container that asks for nothing.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
const SETTINGS: [&str; 2] = [
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use strongroom_guest::agent_policy::AgentPolicy;

    use super::*;

    fn host() -> Host {
        Host {
            containers: vec!["/bin/app --serve".to_owned()],
            variables: vec!["MODEL".to_owned(), "MODE=fraud".to_owned()],
            mounts: vec!["/etc/app".to_owned()],
            exec: vec!["uname -r".to_owned()],
            ..Host::default()
        }
    }

    #[track_caller]
    fn asked(host: &Host, request: &str, input: &Value) -> bool {
        let mut policy = AgentPolicy::load(&write(host).unwrap()).unwrap();
        policy.ask(request, input).unwrap().allowed
    }

    fn process(args: &[&str]) -> Value {
        json!({
            "Terminal": false, "User": { "UID": 0, "GID": 0, "AdditionalGids": [0, 10], "Username": "" }, "Args": args,
            "Env": [VARIABLES[0], "HOSTNAME=pod-1", "KUBERNETES_SERVICE_HOST=10.0.0.1", "KUBERNETES_PORT=tcp://10.0.0.1:443",
                "KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443", "KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1", "KUBERNETES_SERVICE_PORT_HTTPS=443",
                "MODEL=any", "MODE=fraud"],
            "Cwd": "/", "NoNewPrivileges": false, "ApparmorProfile": "", "SelinuxLabel": "",
            "Capabilities": { "Ambient": [], "Bounding": ["CAP_CHOWN", "CAP_KILL"], "Effective": ["CAP_CHOWN"], "Inheritable": [], "Permitted": [] },
        })
    }

    /// Sets one thing of an allowed request, after which it must be refused.
    #[track_caller]
    fn refused(request: &str, good: &Value, at: &str, value: Value) {
        assert!(asked(&host(), request, good), "{good:#}");
        let mut wrong = good.clone();
        *wrong.pointer_mut(at).unwrap() = value.clone();
        assert!(!asked(&host(), request, &wrong), "{at} = {value}");
    }

    #[test]
    fn container_that_the_host_made_up() {
        let good = container(process(&["/bin/app", "--serve"]));
        let no = |at: &str, value: Value| refused("CreateContainerRequest", &good, at, value);
        no(
            "/OCI/Process/Args",
            json!(["sh", "-c", "curl 127.0.0.1:8006"]),
        );
        no(
            "/OCI/Process/Args",
            json!(["/bin/app", "--serve", "--debug"]),
        );
        no("/OCI/Process/Env/7", json!("LD_PRELOAD=/evil.so"));
        no("/OCI/Process/Env/8", json!("MODE=other"));
        no(
            "/OCI/Process/Env/0",
            json!("PATH=/run/kata-containers/shared"),
        );
        no("/OCI/Process/Env/3", json!("KUBERNETES_PORT=/evil"));
        no("/OCI/Process/Cwd", json!("/tmp"));
        no("/OCI/Process/User/UID", json!(1000));
        no(
            "/OCI/Process/Capabilities/Effective",
            json!(["CAP_SYS_ADMIN"]),
        );
        no("/OCI/Process/Capabilities", Value::Null);
        no("/OCI/Mounts/2/destination", json!("/bin"));
        no("/OCI/Mounts/2/source", json!("/"));
        let up = format!(
            "/run/kata-containers/shared/containers/{ID}-0123456789abcdef-x/../../../../.."
        );
        no("/OCI/Mounts/2/source", json!(up));
        no("/OCI/Mounts/2/options", json!(["rbind", "rshared"]));
        no(
            "/OCI/Root/Path",
            json!(format!(
                "/run/kata-containers/shared/containers/{ID}/rootfs"
            )),
        );
        no("/OCI/Hooks", json!({ "Prestart": [{ "Path": "/evil" }] }));
        no(
            "/OCI/Linux/Sysctl",
            json!({ "kernel.core_pattern": "|/evil" }),
        );
        no("/OCI/Linux/Devices", json!([{ "Path": "/dev/mem" }]));
        no(
            "/OCI/Linux/Namespaces",
            json!([{ "Type": "ipc", "Path": "" }]),
        );
        no("/OCI/Linux/Namespaces/2/Path", json!("/proc/1/ns/mnt"));
        no("/OCI/Linux/ReadonlyPaths", json!([]));
        no("/OCI/Annotations", json!({ "cdi.k8s.io/x": "y" }));
        no("/storages/0/driver", json!("blk"));
        no("/storages/0/mount_point", json!("/usr"));
        no("/string_user", json!({ "uid": "0" }));
        no("/shared_mounts", json!([{}]));
        no("/devices", json!([{}]));
    }

    #[test]
    fn container_when_none_is_named_or_any_is_allowed() {
        let pause = container(json!({
            "User": { "UID": 65535, "GID": 65535, "AdditionalGids": [65535], "Username": "" }, "Args": ["/pause"], "Cwd": "/",
            "Env": [VARIABLES[0]], "Capabilities": { "Bounding": ["CAP_CHOWN"] }, "SelinuxLabel": "", "ApparmorProfile": "",
        }));
        let app = container(process(&["/bin/app", "--serve"]));
        let none = Host::default();
        assert!(asked(&none, "CreateContainerRequest", &pause));
        assert!(!asked(&none, "CreateContainerRequest", &app));
        assert!(!asked(&none, "CreateContainerRequest", &json!({})));
        let any = Host {
            insecure_any_container: true,
            ..Host::default()
        };
        assert!(asked(&any, "CreateContainerRequest", &app));
    }

    #[test]
    fn allowed_command_with_an_environment_of_the_hosts() {
        let mut process = process(&["uname", "-r"]);
        process["Capabilities"] = Value::Null;
        let good =
            json!({ "container_id": ID, "exec_id": ID, "string_user": null, "process": process });
        let no = |at: &str, value: Value| refused("ExecProcessRequest", &good, at, value);
        no(
            "/process/Env/7",
            json!("LD_PRELOAD=/run/kata-containers/shared/evil.so"),
        );
        no("/process/Env/0", json!("PATH=/run/kata-containers/shared"));
        no("/process/Cwd", json!("/run/kata-containers/shared"));
        no("/process/User/UID", json!(7));
        no("/process/User/Username", json!("root"));
        no("/process/Args", json!(["uname"]));
        no("/process/SelinuxLabel", json!("x"));
        no("/string_user", json!({ "uid": "0" }));
    }

    #[test]
    fn file_of_the_host_outside_its_folder() {
        let folder = format!("/run/kata-containers/shared/containers/{ID}-0123456789abcdef-app");
        let mut good = copied(&format!("{folder}/..2024_01_01/key"));
        let no = |good: &Value, at: &str, value: Value| refused("CopyFileRequest", good, at, value);
        for path in [
            "/usr/local/bin/strongroom-guest".to_owned(),
            "/run/kata-containers/../../usr/local/bin/strongroom-guest".to_owned(),
            format!("{folder}/../../x"),
            format!("/run/kata-containers/{ID}/rootfs/bin/app"),
            format!("{folder}/.."),
        ] {
            no(&good, "/path", json!(path));
        }
        no(&good, "/file_mode", json!(0o120_777));
        good["file_mode"] = json!(0o120_777);
        good["symlink_src"] = json!("..data/key");
        for link in ["/usr/local/bin/strongroom-guest", "../../x", "..", ""] {
            no(&good, "/symlink_src", json!(link));
        }
    }

    #[test]
    fn network_that_takes_the_guests_own_address() {
        let interface = json!({ "interface": { "name": "eth0", "hwAddr": "02:00:00:00:00:01", "IPAddresses": [{ "address": "10.0.0.2", "mask": "24" }] } });
        refused(
            "UpdateInterfaceRequest",
            &interface,
            "/interface/name",
            json!("lo"),
        );
        refused(
            "UpdateInterfaceRequest",
            &interface,
            "/interface/IPAddresses/0/address",
            json!("127.0.0.1"),
        );
        let routes = json!({ "routes": { "Routes": [{ "device": "eth0", "source": "", "dest": "", "gateway": "10.0.0.1" }] } });
        refused(
            "UpdateRoutesRequest",
            &routes,
            "/routes/Routes/0/device",
            json!("lo"),
        );
        refused(
            "UpdateRoutesRequest",
            &routes,
            "/routes/Routes/0/dest",
            json!("127.0.0.1/32"),
        );
        let neighbors = json!({ "neighbors": { "ARPNeighbors": [{ "device": "eth0", "toIPAddress": { "address": "10.0.0.3" } }] } });
        refused(
            "AddARPNeighborsRequest",
            &neighbors,
            "/neighbors/ARPNeighbors/0/toIPAddress/address",
            json!("127.0.0.1"),
        );
    }

    #[test]
    fn pod_with_hooks_modules_or_disks_of_the_hosts() {
        let good = json!({
            "guest_hook_path": "", "kernel_modules": [], "sandbox_pidns": false,
            "storages": [{ "driver": "ephemeral", "driver_options": [], "source": "shm", "fstype": "tmpfs", "options": [], "mount_point": "/run/kata-containers/sandbox/shm", "fs_group": null }],
        });
        refused(
            "CreateSandboxRequest",
            &good,
            "/guest_hook_path",
            json!("/x"),
        );
        refused(
            "CreateSandboxRequest",
            &good,
            "/kernel_modules",
            json!([{ "name": "evil" }]),
        );
        refused(
            "CreateSandboxRequest",
            &good,
            "/storages/0/driver",
            json!("virtio-fs"),
        );
        refused(
            "CreateSandboxRequest",
            &good,
            "/storages/0/mount_point",
            json!("/usr"),
        );
    }

    #[test]
    fn what_a_hostile_host_asks_is_refused() {
        for (request, input, means) in hostile() {
            assert!(!asked(&host(), request, &input), "{request}: {means}");
        }
        for request in [
            "ReadStreamRequest",
            "AddSwapRequest",
            "UpdateEphemeralMountsRequest",
            "SetPolicyRequest",
        ] {
            assert!(!asked(&host(), request, &json!({})), "{request}");
        }
        assert!(asked(
            &Host {
                logs: true,
                ..host()
            },
            "ReadStreamRequest",
            &json!({})
        ));
    }

    #[test]
    fn answer_that_means_nothing_is_not_written() {
        let wrong = |host: Host| assert!(write(&host).is_err());
        wrong(Host {
            variables: vec!["=x".to_owned()],
            ..Host::default()
        });
        wrong(Host {
            mounts: vec!["etc".to_owned()],
            ..Host::default()
        });
        wrong(Host {
            workdirs: vec!["/a/../b".to_owned()],
            ..Host::default()
        });
        wrong(Host {
            users: vec!["root".to_owned()],
            ..Host::default()
        });
        wrong(Host {
            containers: vec![String::new()],
            ..Host::default()
        });
    }
}
