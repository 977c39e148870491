package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"lambent"
	"lambent/client"
	"lambent/test/measure"
)

// town is the functions that the soak calls: some that are deployed again and again, one whose every request has an
// instance of its own, and one whose instances are killed.
type town struct {
	daemon *measure.Daemon
	http   *http.Client
	binary []byte
	last   atomic.Int64 // number of an id
}

const (
	houses  = 20 // functions that are deployed again and again
	renewal = 10 // deploys between changes of the code
)

func newTown(ctx context.Context, d *measure.Daemon, dir string) (*town, error) {
	path, err := buildServer(ctx, dir)
	if err != nil {
		return nil, err
	}
	t := &town{daemon: d, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: patience}}
	if t.binary, err = os.ReadFile(path); err != nil {
		return nil, err
	}
	for i := range houses {
		if err := t.deploy(ctx, i-houses); err != nil {
			return nil, err
		}
	}
	once := lambent.Settings{Reuse: lambent.ReuseNever, MaxInstances: 8}
	if err := t.settle(ctx, "once", once, 0); err != nil {
		return nil, err
	}
	return t, t.settle(ctx, "victim", lambent.Settings{Env: map[string]string{"JOURNAL": "yes"}}, 0)
}

// name is the function that the i-th deploy or request is for.
func (t *town) name(i int) string { return fmt.Sprintf("house-%d", (i+houses)%houses) }

// deploy makes the i-th revision. Every tenth has new code.
func (t *town) deploy(ctx context.Context, i int) error {
	s := lambent.Settings{Env: map[string]string{"VERSION": strconv.Itoa(i)}}
	return t.settle(ctx, t.name(i), s, i/renewal)
}

func (t *town) settle(ctx context.Context, name string, s lambent.Settings, variant int) error {
	archive, err := bundle("server", t.binary, strconv.Itoa(variant))
	if err != nil {
		return err
	}
	code, err := t.daemon.Client.Upload(ctx, bytes.NewReader(archive), nil)
	if err != nil {
		return err
	}
	s.Runtime, s.Handler, s.Memory, s.Concurrency = "go", "server", 64, 20
	_, err = t.daemon.Client.Deploy(ctx, client.Deploy{Namespace: lambent.DefaultNamespace, Name: name, Settings: s, Code: code.Digest})
	if err != nil {
		return fmt.Errorf("deploy %s: %w", name, err)
	}
	return nil
}

// call gives the id of the instance that answers.
func (t *town) call(ctx context.Context, name string) (instance string, err error) {
	id := fmt.Sprintf("s-%d", t.last.Add(1))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.daemon.Host+"/fn/"+name+"/work?id="+id, strings.NewReader("x"))
	if err != nil {
		return "", err
	}
	resp, err := t.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	instance, ok := strings.CutPrefix(strings.TrimSpace(string(raw)), "done "+id+" ")
	if !ok || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %d: %.300s", name, resp.StatusCode, raw)
	}
	return instance, nil
}
