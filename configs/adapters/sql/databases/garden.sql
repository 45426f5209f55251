CREATE TABLE beds(id INTEGER PRIMARY KEY, name TEXT, area REAL, sunny INTEGER);
CREATE TABLE plants(id INTEGER PRIMARY KEY, bed_id INTEGER, species TEXT, planted TEXT, harvested_kg REAL);
INSERT INTO beds VALUES
  (1,'North',6.5,0),
  (2,'South',8,1),
  (3,'Wall',2.5,1),
  (4,'Pond',4,0);
INSERT INTO plants VALUES
  (1,2,'tomato','2024-05-02',11.2),
  (2,2,'basil','2024-05-10',0.6),
  (3,1,'leek','2024-03-20',4),
  (4,3,'tomato','2024-05-15',3.1),
  (5,1,'spinach','2024-03-02',NULL),
  (6,3,'fig','2019-10-01',7.5);
