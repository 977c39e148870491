// Package cgi is a server's part of CGI/1.1 (RFC 3875): the environment that a request becomes, and the head of the
// answer in what a program writes.
package cgi

import (
	"fmt"
	"strings"
)

// Field is one line of a header.
type Field struct{ Name, Value string }

// Check tells whether f is a field as RFC 9110, section 5, has them.
func (f Field) Check() error {
	if f.Name == "" || strings.ContainsFunc(f.Name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	}) {
		return fmt.Errorf("%.80q is no name of a field", f.Name)
	}
	if strings.ContainsFunc(f.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return fmt.Errorf("the value of %.80s in its header holds a control character", f.Name)
	}
	return nil
}

// OfConnection tells the fields that are the business of whoever writes to a connection, by their canonical names.
func OfConnection(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}
