// Command wordcount counts the words of the text that is posted to it. It holds neither the text nor an
// unbounded vocabulary, so a text of any size runs in a few megabytes.
package main

import (
	"encoding/json"
	"log"
	"net/http"
)

func main() {
	listener, err := Listener() // instead of net.Listen("tcp", ":8000")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(serve)))
}

func serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "POST a text: curl -T FILE -X POST URL", http.StatusMethodNotAllowed)
		return
	}
	counts, err := count(r.Body)
	if err != nil {
		http.Error(w, "the text broke off: "+err.Error(), http.StatusBadRequest)
		return
	}
	log.Printf("%d bytes, %d words", counts.Bytes, counts.Words)
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(counts); err != nil {
		log.Print(err)
	}
}
