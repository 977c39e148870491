package engine

import "testing"

func TestSelfTest(t *testing.T) {
	e := open(t, Options{})
	way, why := e.Reset()
	t.Log(way, why)
	if way == ResetNever {
		t.Fatalf("no way to reset works: %s", why)
	}
}
