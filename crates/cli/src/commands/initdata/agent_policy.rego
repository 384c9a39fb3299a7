package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

# What no rule below allows is refused.
default AllowRequestsFailingPolicy := false

# A container's life, as far as it takes nothing from the host but names and numbers.
default CloseStdinRequest := true
default DestroySandboxRequest := true
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default ListInterfacesRequest := true
default ListRoutesRequest := true
default OnlineCPUMemRequest := true
default PullImageRequest := true
default RemoveContainerRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true
default SignalProcessRequest := true
default StartContainerRequest := true
default StatsContainerRequest := true
default TtyWinResizeRequest := true
default WaitProcessRequest := true

# What reaches into the guest, or changes what it was launched with. Swap would put its memory onto the host's disk.
default AddSwapRequest := false
default GetMetricsRequest := false
default MemHotplugByProbeRequest := false
default PauseContainerRequest := false
default ReseedRandomDevRequest := false
default ResumeContainerRequest := false
default SetGuestDateTimeRequest := false
default SetPolicyRequest := false
default StartTracingRequest := false
default StopTracingRequest := false
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false
default WriteStreamRequest := false

# Allowed within bounds.
default AddARPNeighborsRequest := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default ExecProcessRequest := false
default UpdateInterfaceRequest := false
default UpdateRoutesRequest := false

# The pod: no hooks and no modules of the host's, and no storage but memory.
CreateSandboxRequest if {
	count(object.get(input, "guest_hook_path", "")) == 0
	count(object.get(input, "kernel_modules", [])) == 0
	every storage in object.get(input, "storages", []) {
		memory(storage)
	}
}

# A container: a command that was named, in a root file system that the guest unpacked itself. Which images may be
# unpacked, the image policy says.
CreateContainerRequest if {
	is_null(object.get(input, "string_user", null))
	count(object.get(input, "shared_mounts", [])) == 0
	count(object.get(input, "devices", [])) == 0
	every storage in object.get(input, "storages", []) {
		allowed_storage(storage)
	}

	oci := input.OCI
	is_null(object.get(oci, "Hooks", null))
	regex.match(policy_data.root, oci.Root.Path)
	some container in policy_data.containers
	container.args == oci.Process.Args
	is_object(oci.Process.Capabilities)
	allowed_process(oci.Process, container.users)
	every mount in object.get(oci, "Mounts", []) {
		allowed_mount(mount)
	}
	every name in {name | some name, _ in oci.Annotations} {
		some prefix in policy_data.annotation_prefixes
		startswith(name, prefix)
	}
	confined(oci.Linux)
}

# kubectl exec: exactly these commands, each with all of its arguments, and what a container may have.
ExecProcessRequest if {
	is_null(object.get(input, "string_user", null))
	some command in policy_data.allowed_commands
	command == input.process.Args
	allowed_process(input.process, policy_data.users)
}

# Files of the host (ConfigMaps, Secrets, resolv.conf): into the folder for them alone, and no link that leads out.
CopyFileRequest if {
	regex.match(policy_data.copied, input.path)
	not steps_up(input.path)
	link := object.get(input, "symlink_src", "")
	not startswith(link, "/")
	not steps_up(link)
	known_link(link)
}

# An agent that does not say where a link leads may not make one.
known_link(link) if link != ""

known_link(link) if {
	link == ""
	bits.and(object.get(input, "file_mode", 0), 61440) != 40960
}

# The network: not the loopback, where the guest answers its containers.
UpdateInterfaceRequest if {
	lower(input.interface.name) != "lo"
	object.get(input.interface, "hwAddr", "") != "00:00:00:00:00:00"
	every address in object.get(input.interface, "IPAddresses", []) {
		not loopback(address.address)
	}
}

UpdateRoutesRequest if {
	every route in input.routes.Routes {
		object.get(route, "device", "") != "lo"
		not loopback(object.get(route, "source", ""))
		not loopback(object.get(route, "dest", ""))
	}
}

AddARPNeighborsRequest if {
	every neighbor in input.neighbors.ARPNeighbors {
		object.get(neighbor, "device", "") != "lo"
		not loopback(neighbor.toIPAddress.address)
	}
}

allowed_process(process, users) if {
	count(object.get(process, "SelinuxLabel", "")) == 0
	count(object.get(process, "ApparmorProfile", "")) == 0
	allowed_user(process.User, users)
	process.Cwd in policy_data.workdirs
	every variable in object.get(process, "Env", []) {
		allowed_variable(variable)
	}
	every capability in held_capabilities(process) {
		capability in policy_data.capabilities
	}
}

# A command has none of its own where the runtime gives it the container's.
held_capabilities(process) := {one |
	is_object(process.Capabilities)
	some _, list in process.Capabilities
	is_array(list)
	some one in list
}

allowed_user(user, users) if {
	object.get(user, "Username", "") == ""
	[user.UID, user.GID] in users
	every group in object.get(user, "AdditionalGids", []) {
		allowed_group(user.UID, group)
	}
}

allowed_group(uid, group) if {
	uid == 0
	group >= 0
}

allowed_group(uid, group) if {
	uid != 0
	group in {gid | some [_, gid] in policy_data.users}
}

allowed_group(uid, group) if {
	uid == 65535
	group == 65535
}

allowed_variable(variable) if variable in policy_data.variables

allowed_variable(variable) if {
	some name in policy_data.variable_names
	startswith(variable, concat("", [name, "="]))
}

allowed_variable(variable) if {
	some pattern in policy_data.variable_patterns
	regex.match(pattern, variable)
}

allowed_mount(mount) if {
	some known in policy_data.mounts
	known == {"destination": mount.destination, "source": mount.source, "type": mount.type_}
	private(mount)
}

allowed_mount(mount) if {
	mount.type_ == "bind"
	mount.destination in policy_data.destinations
	some pattern in policy_data.sources
	regex.match(pattern, mount.source)
	not steps_up(mount.source)
	private(mount)
}

# Nothing that is mounted inside shows outside.
private(mount) if {
	every option in object.get(mount, "options", []) {
		not option in ["shared", "rshared"]
	}
}

allowed_storage(storage) if {
	storage.driver == "image_guest_pull"
	storage.fstype == "overlay"
	count(object.get(storage, "options", [])) == 0
	regex.match(policy_data.root, storage.mount_point)
}

allowed_storage(storage) if memory(storage)

allowed_storage(storage) if {
	storage.driver == "local"
	storage.fstype == "local"
	regex.match(policy_data.local, storage.mount_point)
	not steps_up(storage.mount_point)
}

memory(storage) if {
	storage.driver == "ephemeral"
	storage.fstype == "tmpfs"
	regex.match(policy_data.ephemeral, storage.mount_point)
	not steps_up(storage.mount_point)
}

# Its own view of files, no device, no setting of the kernel, and the kernel's files not to be written.
confined(linux) if {
	kinds := {namespace.Type | some namespace in linux.Namespaces}
	"mount" in kinds
	every namespace in linux.Namespaces {
		object.get(namespace, "Path", "") == ""
	}
	count({device | some device in linux.Devices}) == 0
	count({device | some device in linux.Resources.Devices}) == 0
	every name in {name | some name, _ in linux.Sysctl} {
		name in policy_data.settings
	}
	every path in ["/proc/sys", "/proc/sysrq-trigger"] {
		path in linux.ReadonlyPaths
	}
}

steps_up(path) if regex.match(`(^|/)\.\.(/|$)`, path)

loopback(address) if regex.match(`^127\.|^::1(/|$)|^(0{1,4}:){7}0{0,3}1(/|$)|^::ffff:127\.`, lower(to_text(address)))

to_text(value) := value if is_string(value)

to_text(value) := value.address if is_object(value)

