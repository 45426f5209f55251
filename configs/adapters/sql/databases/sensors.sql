CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor TEXT, at TEXT, celsius REAL, battery INTEGER);
INSERT INTO readings VALUES
  (1,'attic','2024-07-01 08:00',24.5,90),
  (2,'attic','2024-07-01 14:00',33.1,89),
  (3,'cellar','2024-07-01 08:00',12,40),
  (4,'cellar','2024-07-02 08:00',NULL,15),
  (5,'porch','2024-07-02 09:00',21.7,77),
  (6,'attic','2024-07-02 14:00',35,88);
