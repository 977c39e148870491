package control_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/control"
)

func TestSystemEvents(t *testing.T) {
	w := newWorld(t)
	w.team()
	var query control.EventQuery
	w.Events = func(_ context.Context, q control.EventQuery) iter.Seq2[lambent.SystemEvent, error] {
		query = q
		return func(yield func(lambent.SystemEvent, error) bool) {
			_ = yield(lambent.SystemEvent{ID: "1", Kind: lambent.EventNodeStarted}, nil) && yield(lambent.SystemEvent{}, errors.New("disk gone"))
		}
	}
	since := time.Date(2026, 11, 22, 1, 2, 3, 5e8, time.UTC)
	for _, c := range []struct {
		key, query string
		want       control.EventQuery
	}{
		{"", "", control.EventQuery{Limit: 100}},
		{"", "?namespace=other&limit=0&kind=circuit", control.EventQuery{Namespace: "other", Kind: "circuit"}},
		{"", "?function=f&limit=7&since=2026-11-22T01:02:03.5Z&follow=true&kind=instance.exited",
			control.EventQuery{Function: "f", Limit: 7, Since: since, Follow: true, Kind: lambent.EventInstanceExited}},
		{"team-deploy", "", control.EventQuery{Namespace: "team", Limit: 100}},
		{"team-admin", "?namespace=team&function=f", control.EventQuery{Namespace: "team", Function: "f", Limit: 100}},
	} {
		var header []string
		if c.key != "" {
			header = as(c.key)
		}
		resp, body := w.do("GET", "/v1/system/events"+c.query, "", header...)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" || query != c.want {
			t.Errorf("%s%s: %s, query %+v, want %+v", c.key, c.query, resp.Status, query, c.want)
		}
		if !strings.HasPrefix(body, `{"id":"1",`) || !strings.HasSuffix(body, `"message":"disk gone"}}`+"\n") {
			t.Errorf("got %q", body)
		}
	}
	w.fails(lambent.CodeForbidden, "GET", "/v1/system/events?namespace=other", "", as("team-admin")...)
	w.fails(lambent.CodeForbidden, "GET", "/v1/system/events", "", as("team-invoke")...)
	for _, wrong := range []string{"kind=instant", "kind=instance.", "limit=-1", "limit=10001", "since=yesterday", "follow=maybe", "page=2"} {
		w.fails(lambent.CodeInvalidRequest, "GET", "/v1/system/events?"+wrong, "")
	}
}
