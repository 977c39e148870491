package builtin

import (
	"testing"
	"time"

	"lambent"
	"lambent/executor"
)

func TestNoop(t *testing.T) {
	s, err := lambent.Settings{Runtime: "noop"}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	e := New()
	i, err := e.Start(t.Context(), executor.Spec{ID: lambent.NewID(), Revision: lambent.NewRevision("default", "n", s, "sha256:0", "", time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "POST", "OPTIONS"} {
		if resp, body := do(t, i, method, "/any/path"); resp.Status != 200 || body != "ok\n" {
			t.Errorf("%s: %d %q", method, resp.Status, body)
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
