// slowlink passes TCP connections on as a distant link would: what comes back is late by a fixed delay, and
// no faster than a rate for each connection and one for all together.
//
//	go run ./benchmarks/slowlink -listen 127.0.0.1:7171 -to 127.0.0.1:7070 -delay 10ms -each 36e6 -all 250e6
package main

import (
	"flag"
	"io"
	"log"
	"net"
	"sync"
	"time"
)

const pieceBytes = 64 << 10

// rate lets bytes through at so many a second, in the order in which they ask.
type rate struct {
	sync.Mutex
	bytesPerSecond float64
	free           time.Time // when the bytes let through so far have all gone
}

// reserve returns when the last of these bytes will have gone.
func (r *rate) reserve(size int) time.Time {
	r.Lock()
	defer r.Unlock()
	if now := time.Now(); r.free.Before(now) {
		r.free = now
	}
	r.free = r.free.Add(time.Duration(float64(size) / r.bytesPerSecond * float64(time.Second)))
	return r.free
}

type piece struct {
	data []byte
	due  time.Time
}

func pass(client net.Conn, target string, delay time.Duration, each float64, all *rate) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		log.Print(err)
		return
	}
	defer server.Close()
	go func() {
		io.Copy(server, client)
		server.(*net.TCPConn).CloseWrite()
	}()
	own := &rate{bytesPerSecond: each}
	late := make(chan piece, 64) // what is on the link: 4 MiB at most
	go func() {
		defer close(late)
		for {
			data := make([]byte, pieceBytes)
			size, err := server.Read(data)
			if size > 0 {
				arrived := time.Now()
				due := own.reserve(size)
				if shared := all.reserve(size); shared.After(due) {
					due = shared
				}
				time.Sleep(time.Until(due)) // the sender is held back
				late <- piece{data[:size], arrived.Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for next := range late {
		time.Sleep(time.Until(next.due))
		if _, err := client.Write(next.data); err != nil {
			return
		}
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:7171", "where to listen")
	target := flag.String("to", "127.0.0.1:7070", "where to pass on to")
	delay := flag.Duration("delay", 10*time.Millisecond, "how late what comes back is")
	each := flag.Float64("each", 36e6, "bytes a second of one connection")
	total := flag.Float64("all", 250e6, "bytes a second of all together")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	all := &rate{bytesPerSecond: *total}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go pass(client, *target, *delay, *each, all)
	}
}
