package nearest

import "testing"

func TestOf(t *testing.T) {
	fields := []string{"memory", "cpu", "pids", "keep_alive", "timeouts", "env"}
	for word, want := range map[string]string{
		"memroy": "memory", "memory": "memory", "keepalive": "keep_alive", "timeout": "timeouts",
		"evn": "env", "colour": "", "": "", "x": "", "pid": "pids",
	} {
		if got := Of(word, fields); got != want {
			t.Errorf("Of(%q) = %q, want %q", word, got, want)
		}
	}
	if got := Of("ab", []string{"ac", "ad"}); got != "" {
		t.Errorf("a tie gave %q", got)
	}
}
