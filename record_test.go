package lambent_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"lambent"
)

// TestRecordJSON compares the two ways to write a record, of which one does not follow a new field by itself.
func TestRecordJSON(t *testing.T) {
	full := lambent.Record{
		ID: "id", Namespace: "n", Function: "f", Alias: "a", Revision: "r", Trigger: "http", Method: "G\"ET", Path: "/\\ü\u2028\x00\x7f<\xff",
		Accepted: time.Date(2026, 11, 22, 1, 2, 3, 456789000, time.FixedZone("", 3600)), Status: 200, Error: lambent.Errorf(lambent.CodeInternal, "no"),
		Instance: "i", Attempt: 2, Cold: true, BytesIn: 1, BytesOut: 2, CPU: 0.0125, Memory: 65536,
		Phases: lambent.Phases{lambent.PhaseQueue: time.Millisecond, lambent.PhaseHandler: 1234 * time.Microsecond},
	}
	for v, i := reflect.ValueOf(full), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("%s is not tried", v.Type().Field(i).Name)
		}
	}
	for _, r := range []lambent.Record{{}, full, {Path: "/<"}, {Path: "/>"}, {Path: "/&", CPU: 1e-6}} {
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got := r.AppendJSON([]byte("x"))[1:]
		if !bytes.Equal(got, want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func BenchmarkRecordJSON(b *testing.B) {
	r := lambent.Record{
		ID: lambent.NewID(), Namespace: "default", Function: "echo", Alias: "latest", Revision: "0123456789abcdef", Trigger: "http", Accepted: time.Now(),
		Method: "GET", Path: "/some/path", Status: 200, Instance: lambent.NewID(), BytesOut: 100,
		Phases: lambent.Phases{lambent.PhaseQueue: time.Microsecond, lambent.PhaseHandler: 1234 * time.Microsecond, lambent.PhaseRespond: 1},
	}
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		buf = r.AppendJSON(buf[:0])
	}
}
