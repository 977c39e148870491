package executortest

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"lambent"
)

// ColdStart measures starts of the fixture in a tier against bare ones of the same program, in turns:
// fork, exec, and the answer to the same question. "own" is the tier's share: its total less the bare start
// beside it. Run it with -benchtime 100x.
func ColdStart(b *testing.B, s Setup) {
	k := &kit{Setup: s, code: b.TempDir()}
	buildFixture(b, k.code)
	k.exec = k.open(b, b.TempDir())
	times := map[string][]time.Duration{}
	for b.Loop() {
		bare := bareStart(b, filepath.Join(k.code, "fixture"))
		began := time.Now()
		r, err := k.tryStart(b, k.exec, k.code, nil)
		if err != nil {
			b.Fatal(err)
		}
		total := time.Since(began)
		began = time.Now()
		r.Stop(0)
		phases := r.StartPhases()
		for name, d := range map[string]time.Duration{
			"bare": bare, "total": total, "own": total - bare, "stop": time.Since(began),
			"sandbox": phases[lambent.PhaseSandbox], "boot": phases[lambent.PhaseBoot],
		} {
			times[name] = append(times[name], d)
		}
	}
	b.ReportMetric(0, "ns/op") // it would count the bare start and the stop too
	for name, all := range times {
		slices.Sort(all)
		for what, i := range map[string]int{"min": 0, "p50": len(all) / 2, "p90": len(all) * 9 / 10} {
			b.ReportMetric(all[i].Seconds()*1000, fmt.Sprintf("%s-%s-ms", name, what))
		}
	}
}

func bareStart(b *testing.B, program string) time.Duration {
	path := filepath.Join(b.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	cmd := exec.Command(program)
	cmd.Env, cmd.ExtraFiles = []string{"LISTEN_FDS=1", "MODE=bare"}, []*os.File{f}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	conn, err := net.Dial("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		b.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	resp.Body.Close()
	return took
}
