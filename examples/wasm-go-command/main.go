// Command csv2json makes JSON of the CSV on its stdin: an array with an object for each line, whose names are in the first
// line. It is a CGI program, so any Go can run it: QUERY_STRING='delimiter=;' go run . <prices.csv
package main

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"strings"
	"unicode/utf8"
)

func main() {
	log.SetFlags(0)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	// Go takes a bare semicolon for a mistake; here it is the likeliest delimiter.
	query, err := url.ParseQuery(strings.ReplaceAll(os.Getenv("QUERY_STRING"), ";", "%3B"))
	delimiter, size := ',', 0
	if d := query.Get("delimiter"); d != "" {
		delimiter, size = utf8.DecodeRuneInString(d)
		if size != len(d) {
			err = fmt.Errorf("the delimiter %q is more than one character", d)
		}
	}
	var lines *reader
	if err == nil {
		lines, err = open(os.Stdin, delimiter)
	}
	if err != nil {
		fmt.Fprintf(out, "Status: 400\nContent-Type: text/plain; charset=utf-8\n\n%v\n", err)
		return
	}
	fmt.Fprint(out, "Content-Type: application/json\n\n")
	n, err := convert(out, lines)
	if err != nil { // the answer has begun: what fails now cuts it off
		out.Flush()
		log.Fatal(err)
	}
	log.Printf("%d objects", n)
}

// reader gives the lines of a table, whose columns have names.
type reader struct {
	*csv.Reader
	names [][]byte // as JSON
}

func open(in io.Reader, delimiter rune) (*reader, error) {
	r := &reader{Reader: csv.NewReader(in)}
	r.Comma, r.ReuseRecord = delimiter, true
	names, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("there is no line that names the columns")
	}
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		r.names = append(r.names, text)
	}
	return r, nil
}

// convert writes the lines as they come: a table of any size needs the memory of its longest line.
func convert(out *bufio.Writer, lines *reader) (n int, err error) {
	fmt.Fprint(out, "[")
	for ; ; n++ {
		values, err := lines.Read()
		if errors.Is(err, io.EOF) {
			fmt.Fprint(out, "\n]\n")
			return n, nil
		}
		if err != nil {
			return n, err
		}
		before := ",\n{"
		if n == 0 {
			before = "\n{"
		}
		for i, value := range values {
			text, err := json.Marshal(value)
			if err != nil {
				return n, err
			}
			fmt.Fprintf(out, "%s%s:%s", before, lines.names[i], text)
			before = ","
		}
		fmt.Fprint(out, "}")
	}
}
