package lambent

import "testing"

func TestPrincipalAllows(t *testing.T) {
	for _, c := range []struct {
		p         Principal
		namespace string
		role      Role
		want      bool
	}{
		{Principal{Role: RoleAdmin}, "", RoleAdmin, true},
		{Principal{Role: RoleAdmin}, "team", RoleInvoke, true},
		{Principal{Role: RoleInvoke}, "team", RoleDeploy, false},
		{Principal{Namespace: "team", Role: RoleAdmin}, "team", RoleAdmin, true},
		{Principal{Namespace: "team", Role: RoleAdmin}, "other", RoleInvoke, false},
		{Principal{Namespace: "team", Role: RoleAdmin}, "", RoleInvoke, false},
		{Principal{Namespace: "team", Role: RoleDeploy}, "team", RoleAdmin, false},
		{Principal{Namespace: "team", Role: RoleDeploy}, "team", RoleInvoke, true},
		{Principal{Namespace: "team", Role: RoleInvoke}, "team", RoleDeploy, false},
		{Principal{Namespace: "team", Role: "root"}, "team", RoleInvoke, false},
		{Principal{Namespace: "team", Role: RoleAdmin}, "team", "", false},
		{Principal{}, "", "", false},
		{Principal{}, "team", RoleInvoke, false},
	} {
		if got := c.p.Allows(c.namespace, c.role); got != c.want {
			t.Errorf("%s allows %q in %q: %v", c.p, c.role, c.namespace, got)
		}
		if err := c.p.Require(c.namespace, c.role); (err == nil) != c.want || err != nil && !HasCode(err, CodeForbidden) {
			t.Errorf("%s requires %q in %q: %v", c.p, c.role, c.namespace, err)
		}
	}
}
