package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/slipway-os/slipway/images/components/etcd/bucket"
)

// bucketCommand lists the files of a bucket, or puts or removes one: the agent's way to an object store.
func bucketCommand(ctx context.Context, args []string) error {
	var c bucket.Config
	flags := flag.NewFlagSet("slipway-etcd bucket", flag.ContinueOnError)
	flags.StringVar(&c.Endpoint, "endpoint", "", "the store: https://s3.example.com")
	flags.StringVar(&c.Region, "region", "", "its region")
	flags.StringVar(&c.Bucket, "bucket", "", "the bucket")
	flags.StringVar(&c.Prefix, "prefix", "", "of all names")
	flags.StringVar(&c.Credentials, "credentials", "", "file with the keys")
	flags.StringVar(&c.CA, "ca", "", "file with the store's authority")
	size := flags.Int64("size", -1, "bytes of the file that put reads from standard input")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b, err := bucket.Open(c)
	if err != nil {
		return err
	}
	switch words := flags.Args(); {
	case len(words) == 1 && words[0] == "list":
		names, err := b.List(ctx)
		for _, name := range names {
			fmt.Println(name)
		}
		return err
	case len(words) == 2 && words[0] == "put" && *size >= 0:
		return b.Put(ctx, words[1], os.Stdin, *size)
	case len(words) == 2 && words[0] == "remove":
		return b.Remove(ctx, words[1])
	}
	return errors.New("usage: slipway-etcd bucket [flags] list | --size BYTES put NAME | remove NAME")
}
