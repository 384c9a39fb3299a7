package agent_policy

import input

CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/c", "value": 1}]}
RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": concat("/", ["/pstate", input.container_id])}]}
