// Reads the record from where it stopped the last time, prints each episode, and marks it as consumed.
//
//	go run . NAME [SECONDS]
//
// The broker is $NATS_URL; that of "kiki up" knows you by a file of the data directory. It ends when no record comes
// for so many seconds.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Record is the part of a record that is printed; readers pass over the other fields.
type Record struct {
	ID        uint64 `json:"id"`
	EpisodeID string `json:"episode_id"`
	Episode   *struct {
		Question string `json:"question"`
		Answer   string `json:"answer"`
	} `json:"episode"`
}

// ServiceError is how a service refuses, with the header Nats-Service-Error.
type ServiceError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e ServiceError) Error() string { return e.Code + ": " + e.Message }

// ask sends a request to a service and reads its reply, or its refusal.
func ask(nc *nats.Conn, verb string, body map[string]any, reply any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	message, err := nc.Request("kiki.svc.services."+verb, data, time.Minute)
	if err != nil {
		return err
	}
	if message.Header.Get("Nats-Service-Error") != "" {
		var refusal ServiceError
		if err := json.Unmarshal(message.Data, &refusal); err != nil {
			return err
		}
		return refusal
	}
	return json.Unmarshal(message.Data, reply)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func connect() (*nats.Conn, error) {
	url, home := os.Getenv("NATS_URL"), os.Getenv("KIKI_DATA_DIR")
	if url == "" {
		url = nats.DefaultURL
	}
	if home == "" {
		home = filepath.Join(os.Getenv("HOME"), ".local", "share", "micro-kiki")
	}
	var options []nats.Option
	if login, err := nats.NkeyOptionFromSeed(filepath.Join(home, "nats", "users", "owner.nk")); err == nil {
		options = append(options, login)
	}
	return nats.Connect(url, options...)
}

func main() {
	name, seconds := os.Args[1], 10.0
	if len(os.Args) > 2 {
		parsed, err := strconv.ParseFloat(os.Args[2], 64)
		must(err)
		seconds = parsed
	}
	nc, err := connect()
	must(err)
	defer nc.Close()
	var info map[string]any
	err = ask(nc, "register", map[string]any{"name": name}, &info)
	if refusal, ok := err.(ServiceError); !ok || refusal.Code != "name_taken" { // taken: by this reader, some time before
		must(err)
	}
	for {
		var batch struct{ Records []Record }
		must(ask(nc, "fetch", map[string]any{"name": name, "wait": seconds}, &batch))
		if len(batch.Records) == 0 {
			return
		}
		ids := []uint64{}
		for _, record := range batch.Records {
			ids = append(ids, record.ID)
			if record.Episode == nil {
				fmt.Printf("%d: %s was forgotten\n", record.ID, record.EpisodeID)
			} else {
				fmt.Printf("%d: %q -> %q\n", record.ID, record.Episode.Question, record.Episode.Answer)
			}
		}
		run := fmt.Sprintf("read-%d", ids[0])
		must(ask(nc, "mark", map[string]any{"name": name, "ids": ids, "de_id": run}, &info))
	}
}
