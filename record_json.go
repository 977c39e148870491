package lambent

import (
	"encoding/json"
	"strconv"
	"time"
)

// AppendJSON appends r as [json.Marshal] writes it. There is a record of every invocation, and reflection would make
// writing it the dearest part of a short one.
func (r *Record) AppendJSON(b []byte) []byte {
	b = appendField(append(b, '{'), "id", r.ID)
	b = appendField(append(b, ','), "namespace", r.Namespace)
	b = appendField(append(b, ','), "function", r.Function)
	if r.Alias != "" {
		b = appendField(append(b, ','), "alias", r.Alias)
	}
	b = appendField(append(b, ','), "revision", r.Revision)
	b = appendField(append(b, ','), "trigger", r.Trigger)
	b = append(r.Accepted.AppendFormat(append(b, `,"accepted":"`...), time.RFC3339Nano), '"')
	b = appendField(append(b, ','), "method", r.Method)
	b = appendField(append(b, ','), "path", r.Path)
	if r.Status != 0 {
		b = strconv.AppendInt(append(b, `,"status":`...), int64(r.Status), 10)
	}
	if r.Error != nil {
		b = append(append(b, `,"error":`...), marshal(r.Error)...)
	}
	if r.Instance != "" {
		b = appendField(append(b, ','), "instance", r.Instance)
	}
	if r.Attempt != 0 {
		b = strconv.AppendInt(append(b, `,"attempt":`...), int64(r.Attempt), 10)
	}
	if r.Cold {
		b = append(b, `,"cold":true`...)
	}
	b = strconv.AppendInt(append(b, `,"bytes_in":`...), r.BytesIn, 10)
	b = strconv.AppendInt(append(b, `,"bytes_out":`...), r.BytesOut, 10)
	if r.CPU != 0 {
		b = strconv.AppendFloat(append(b, `,"cpu_ms":`...), r.CPU, 'f', -1, 64)
	}
	if r.Memory != 0 {
		b = strconv.AppendInt(append(b, `,"memory":`...), r.Memory, 10)
	}
	return append(r.Phases.appendJSON(append(b, `,"phases_ms":`...)), '}')
}

func appendField(b []byte, name, value string) []byte {
	return appendString(append(append(append(b, '"'), name...), `":`...), value)
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c >= 0x7f, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return append(b, marshal(s)...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// marshal is for what always marshals.
func marshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}
