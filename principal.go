package lambent

import (
	"fmt"
	"time"
)

// Role is what a key may do in its namespace. Each role may also do what those below it may.
type Role string

// The roles, the lowest first.
const (
	RoleInvoke Role = "invoke" // call functions
	RoleDeploy Role = "deploy" // functions, their aliases, code, logs and records; name secrets, but not write them
	RoleAdmin  Role = "admin"  // all in the namespace, its keys and secrets too
)

// rank orders the roles; a role that is none has no rank and may do nothing.
var rank = map[Role]int{RoleInvoke: 1, RoleDeploy: 2, RoleAdmin: 3}

// CheckRole tells whether r is a role.
func CheckRole(r Role) error {
	if rank[r] == 0 {
		return Errorf(CodeInvalidRequest, "%q is no role", r).WithHint("use %s, %s or %s", RoleAdmin, RoleDeploy, RoleInvoke)
	}
	return nil
}

// Principal is who a request comes from, by the key that it carries. The zero Principal may do nothing.
type Principal struct {
	Namespace string // "" for all namespaces and the node itself
	Name      string // of the key
	Role      Role
}

// Allows tells whether p may do in namespace what role may. The namespace "" stands for the node itself.
func (p Principal) Allows(namespace string, role Role) bool {
	return rank[role] > 0 && rank[p.Role] >= rank[role] && (p.Namespace == "" || p.Namespace == namespace)
}

// Require is nil if p may do in namespace what role may, and forbidden otherwise.
func (p Principal) Require(namespace string, role Role) error {
	switch {
	case p.Allows(namespace, role):
		return nil
	case namespace == "":
		return Errorf(CodeForbidden, "%s may not do this: it is about the whole node", p).WithHint("use the node's admin key")
	case p.Namespace != "" && p.Namespace != namespace:
		return Errorf(CodeForbidden, "%s may do nothing in namespace %s", p, namespace).WithHint("use a key of that namespace")
	}
	return Errorf(CodeForbidden, "%s may not do this: it takes role %s", p, role).WithHint("use a key that has it, see: lambent key ls")
}

// String names p for messages and logs: "key ci (deploy in team)".
func (p Principal) String() string {
	if p.Namespace == "" {
		return fmt.Sprintf("key %s (%s of the node)", p.Name, p.Role)
	}
	return fmt.Sprintf("key %s (%s in %s)", p.Name, p.Role, p.Namespace)
}

// Key is what the platform tells of an API key: everything but the key itself.
type Key struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	Created   time.Time `json:"created"`
}

// Principal is who carries k.
func (k *Key) Principal() Principal {
	return Principal{Namespace: k.Namespace, Name: k.Name, Role: k.Role}
}
