module influx

go 1.18

require github.com/influxdata/influxdb1-client v0.0.0-20200515024757-02f0bf5dbca3
