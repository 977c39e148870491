package executortest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"lambent"
)

// secretsOf gives every secret that a revision names a value, whose bytes are no text.
func secretsOf(rev *lambent.Revision) map[string]string {
	if rev.Settings.Secrets == nil {
		return nil
	}
	out := map[string]string{}
	for target, name := range rev.Settings.Secrets {
		out[target] = "value of " + name + "\xff\nsecond line of " + name
	}
	return out
}

// Secrets come in the environment, bytes and all, to the instances that they are for; what they say of them in their
// logs and errors does not get out.
func testSecrets(t *testing.T, k *kit) {
	r := k.start(t, func(s *lambent.Settings) {
		s.Secrets = map[string]string{"TOKEN": "token", "HOME": "home"}
		s.Env = map[string]string{"COLOUR": "blue"}
	})
	env := r.env(t)
	for _, want := range []string{"COLOUR=blue", "TOKEN=value of token\xff\nsecond line of token", "HOME=value of home\xff\nsecond line of home"} {
		if !slices.Contains(env, want) {
			t.Errorf("the environment lacks %q: %q", want, env)
		}
	}
	if n := len(slices.DeleteFunc(env, func(v string) bool { return !strings.HasPrefix(v, "HOME=") })); n != 1 {
		t.Errorf("HOME is there %d times", n)
	}
	r.must(t, "/log?n=1&tag=a+second+line+of+token.")
	if line := r.logs.await(t, "out a "); line.Text != "out a ***. 0" {
		t.Errorf("the log holds %q", line.Text)
	}
	others := k.start(t, nil).env(t)
	if strings.Contains(fmt.Sprint(others), "value of") {
		t.Errorf("another instance has %q", others)
	}
}

func testSecretsAtStart(t *testing.T, k *kit) {
	_, err := k.tryStart(t, k.exec, k.code, func(s *lambent.Settings) {
		s.Secrets = map[string]string{"FIXTURE_FAILS": "token"}
	})
	e := want(t, err, lambent.CodeStartFailed, "***")
	if all := fmt.Sprint(e.Message, e.Hint, e.Trace); strings.Contains(all, "value of") || strings.Contains(all, "second line") {
		t.Errorf("the error says %s", all)
	}
}

// Secrets that are files are their owner's to read and nobody's to change.
func testSecretFiles(t *testing.T, k *kit) {
	const path = "/run/secrets/tls.key"
	r := k.start(t, func(s *lambent.Settings) { s.Secrets = map[string]string{path: "tls"} })
	var file struct {
		Content []byte
		Mode    string
		Owner   int
		Error   string
	}
	r.into(t, "/cat?path="+path, &file)
	if string(file.Content) != "value of tls\xff\nsecond line of tls" || file.Mode != "-r--------" || file.Owner == os.Geteuid() && file.Owner == 0 {
		t.Errorf("%+v", file)
	}
	var result string
	for _, target := range []string{path, "/run/secrets/new", "/run/new"} {
		if r.into(t, "/write?path="+target, &result); result == "ok" {
			t.Errorf("the function can write %s", target)
		}
	}
	r.into(t, "/cat?path=/proc/self/mountinfo", &file)
	mounted := ""
	for line := range strings.Lines(string(file.Content)) {
		if strings.Contains(line, " /run/secrets ") {
			mounted = line
		}
	}
	for _, flag := range []string{"ro", "nosuid", "nodev", "noexec"} {
		if fields := strings.Fields(mounted); len(fields) < 6 || !slices.Contains(strings.Split(fields[5], ","), flag) {
			t.Errorf("the mount is not %s: %q", flag, mounted)
		}
	}
	var names []string
	if env := r.env(t); strings.Contains(fmt.Sprint(env), "value of tls") {
		t.Errorf("the file is in the environment, too: %q", env)
	}
	if k.start(t, nil).into(t, "/list?path=/run", &names); len(names) != 1 || !strings.Contains(names[0], "no such file") {
		t.Errorf("an instance without secrets has /run: %q", names)
	}
}
