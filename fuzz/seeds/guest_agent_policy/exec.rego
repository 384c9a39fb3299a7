package agent_policy

import future.keywords.if
import future.keywords.in

default AllowRequestsFailingPolicy := false
default ExecProcessRequest := false

ExecProcessRequest if {
	print("asked", input.process, data.pstate.none)
	some command in policy_data.allowed_commands
	command == input.process.Args
}

policy_data := {"allowed_commands": [["uname", "-r"]]}
